"""What a notebook says of the names in a Containerfile is held to what it may say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import bases, digest, pins
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments import places

ONE, TWO = digest.of(b"1"), digest.of(b"2")


def table(*names: tuple[str, str], **more: Any) -> dict[str, Any]:
    listed = bases.Bases(tuple(bases.Base(*each) for each in names))
    pin = {"digest": listed.digest, "bases": msgspec.to_builtins(listed), **more}
    return {"images": {"build:.": pin}}


def test_a_pinned_build_is_the_same_in_the_next_notebook(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = pins.Pins(pins.decode(table(("ghcr.io/a/b:1", TWO), ("python:3", ONE)), "x.ipynb"))

    pinned = found.pinned(f"build:{tmp_path}")

    named, _, known = pinned.rpartition("@")
    assert named == f"build:{tmp_path}"
    assert bases.find(digest.parse(known), pinned).meant == {"python:3": ONE, "ghcr.io/a/b:1": TWO}
    assert found.pinned(pinned) == pinned
    assert found.pinned("build:other") == "build:other"


@pytest.mark.parametrize(
    "names",
    [
        [("python:3", "sha256:../../etc")], [("python:3", ONE[:-1])], [("dir:/etc", ONE)],
        [("build:.", ONE)], [(f"python@{TWO}", ONE)], [("b:1", ONE), ("a:1", ONE)],
        [("a:1", ONE), ("a:1", TWO)], [("../x", ONE)], [("", ONE)],
        [(f"a{number:04}:1", ONE) for number in range(bases.MOST_NAMES + 1)],
    ],
)  # fmt: skip
def test_names_that_can_not_be_are_refused(names: list[tuple[str, str]]) -> None:
    with pytest.raises(ImageError, match="remove it there, and the names are looked up anew"):
        pins.decode(table(*names), "x.ipynb")


def test_a_pin_has_the_digest_of_its_names() -> None:
    with pytest.raises(ImageError, match="is not the digest of its lock"):
        pins.decode(table(("python:3", ONE), digest=TWO), "x.ipynb")


def test_a_list_that_is_not_kept_here_or_is_none_is_said_so(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.VARIABLE, str(tmp_path))
    with pytest.raises(ImageError, match="is not kept here"):
        bases.find(ONE, "build:.")
    other = locks.keep(bases.Base("python:3", ONE))
    with pytest.raises(ImageError, match="is no list of names"):
        bases.find(other, "build:.")
