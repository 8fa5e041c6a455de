"""Whatever bytes a reader gets, it reads or refuses them in its own way: see `fuzz_targets`."""

from __future__ import annotations

import hypothesis
import pytest
from fuzz_targets import TARGETS

SHORT = hypothesis.settings(
    max_examples=30,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_it_is_given_it_reads_or_refuses_in_its_own_way(name: str) -> None:
    target = TARGETS[name]
    for given in target.known:
        target.try_one(given)
    SHORT(hypothesis.given(target.fed)(target.try_one))()
