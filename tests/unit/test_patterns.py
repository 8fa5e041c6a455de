"""Which paths a pattern meets; checked names of files in and out."""

from __future__ import annotations

import time

import pytest

from sandbox_kernel.container import files
from sandbox_kernel.errors import InvalidOption, StepFailed
from sandbox_kernel.runtime.patterns import Patterns


@pytest.mark.parametrize(
    ("pattern", "path", "meets"),
    [
        ("plots/*.png", "plots/a.png", True),
        ("plots/*.png", "plots/a.pngx", False),
        ("plots/*.png", "plots/b/a.png", False),
        ("plots/*.png", "a.png", False),
        ("*", "a", True),
        ("*", ".hidden", False),
        (".*", ".hidden", True),
        ("?.txt", "ä.txt", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-b-b", False),
        ("**", "a/b/c", True),
        ("**", "a/.b/c", False),
        ("**/*.csv", "x.csv", True),
        ("**/*.csv", "a/b/x.csv", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "b/a/z", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
    ],
)
def test_a_pattern_meets_what_a_shell_would_meet(pattern: str, path: str, meets: bool) -> None:
    assert Patterns([pattern]).meet(path.split("/")) is meets
    assert Patterns(["other", pattern]).meet(path.split("/")) is meets


def test_a_pattern_of_many_stars_takes_no_longer_than_its_length() -> None:
    begin = time.monotonic()
    assert not Patterns(["*a" * 100 + "b"]).meet(["a" * 250])
    assert not Patterns(["/".join(["**", "a"] * 50) + "/b"]).meet(["a"] * 200)
    assert time.monotonic() - begin < 5


WRONG = ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\0b", 3, None, "a/" * 300 + "b"]


@pytest.mark.parametrize("path", WRONG)
def test_a_path_that_could_lead_elsewhere_is_refused(path: object) -> None:
    with pytest.raises(InvalidOption, match="files"):
        files.read_files({path: b""})  # type: ignore[dict-item]
    with pytest.raises(InvalidOption, match="files_out"):
        files.read_patterns([path])  # type: ignore[list-item]


def test_what_is_no_content_is_refused(tmp_path) -> None:
    for content in (3, None, tmp_path, tmp_path / "absent", "absent"):
        with pytest.raises(InvalidOption, match="files"):
            files.read_files({"a": content})
    with pytest.raises(InvalidOption, match="at most 100"):
        files.read_patterns([str(number) for number in range(101)])


def test_saving_follows_no_link_and_replaces_whole_files(tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "kept")
    with pytest.raises(StepFailed, match="link"):
        files.save(str(folder), "link/kept", b"stolen")
    files.save(str(folder), "file", b"new")
    files.save(str(folder), "a/b/c", b"deep")
    assert (outside / "kept").read_text() == "kept"
    assert (folder / "file").read_bytes() == b"new"
    assert not (folder / "file").is_symlink()
    assert (folder / "a/b/c").read_bytes() == b"deep"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "file", "link"]
