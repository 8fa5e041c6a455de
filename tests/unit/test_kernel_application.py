"""What the kernel inside does in its own way means the same as what ipykernel does."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from jupyter_client.session import json_packer

from sandbox_kernel.inside.application import LARGE, packer

BIG = 'é"\\\n\x00\u2028' * LARGE


@pytest.mark.parametrize(
    "value",
    [
        {"data": {"text/plain": BIG}, "metadata": {}, "transient": {"display_id": "1"}},
        {"name": "stdout", "text": BIG},
        {"data": {"text/plain": BIG, "application/json": {"a": [1, None, True, 0.1]}}},
        {"data": {"text/plain": BIG, "number": 1e300}, 1: 2},
        {"text": "small"},
        {"code": 10**30, "text": BIG},
    ],
)
def test_a_large_message_is_packed_as_any_other(value: dict[Any, Any]) -> None:
    packed = packer(json_packer)(value)
    assert json.loads(packed) == json.loads(json_packer(value))


def test_what_is_no_json_is_left_to_the_original() -> None:
    asked: list[Any] = []

    def original(value: Any) -> bytes:
        asked.append(value)
        return b"{}"

    values = [
        {"data": {"text/plain": BIG, "application/json": math.nan}},
        {"data": {"text/plain": BIG + "\udce9"}},
    ]
    for value in values:
        assert packer(original)(value) == b"{}"
    assert asked == values
