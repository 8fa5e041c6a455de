"""Lists of system calls: what they do, how they go on, and what is left of one that failed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import libc, multicall, paths
from sandbox_kernel.linux.multicall import Calls

HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}


@pytest.fixture(params=["machine code", "one by one"], autouse=True)
def _runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "one by one":
        monkeypatch.setattr(multicall, "_runner", lambda: multicall.one_by_one)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_PATH)
    yield descriptor
    os.close(descriptor)


def is_open() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    text = Path(HEADERS[machine]).read_text()
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))

    wanted = libc._BY_MACHINE[machine]
    assert {name: int(found[name]) for name in wanted} == wanted


def test_results_are_arguments_of_later_calls_and_what_is_given_differs_each_time(
    root: int, tmp_path: Path
) -> None:
    calls = Calls()
    place = calls.given()
    calls.call("mkdirat", place, b"folder", 0o700)
    folder = calls.call("openat", place, b"folder", os.O_PATH)
    made = calls.call("openat", folder, b"file", os.O_CREAT | os.O_WRONLY, 0o600)
    calls.call("write", made, b"text", 4, written=4)
    calls.close(made)
    calls.close(folder)
    before = is_open()

    calls.run({place: root})
    again = os.open(tmp_path / "folder", os.O_PATH)
    calls.run({place: again})
    os.close(again)

    assert (tmp_path / "folder/file").read_text() == "text"
    assert (tmp_path / "folder/folder/file").read_text() == "text"
    assert is_open() == before


def test_an_errno_that_is_passed_leads_elsewhere_and_so_may_success(
    root: int, tmp_path: Path
) -> None:
    calls = Calls()
    missing, end = calls.label(), calls.label()
    found = calls.call(
        "openat", root, b"there", os.O_PATH, passing=(errno.ENOENT,), instead=missing
    )
    calls.call("close", found, then=end)
    calls.here(missing)
    calls.call("mkdirat", root, b"missing", 0o700)
    calls.here(end)

    calls.run()
    assert os.listdir(tmp_path) == ["missing"]
    (tmp_path / "missing").rename(tmp_path / "there")
    calls.run()
    assert os.listdir(tmp_path) == ["there"]


def test_a_second_errno_is_passed_and_no_third(root: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    calls = Calls()
    with calls.step("look at", "file"):
        calls.call("openat", root, b"file/x", os.O_PATH, passing=(errno.ENOENT, errno.ENOTDIR))
    calls.run()
    (tmp_path / "file").unlink()
    calls.run()
    (tmp_path / "file").symlink_to("file")

    with pytest.raises(StepFailed, match="look at `file`") as caught:
        calls.run()
    assert caught.value.errno == errno.ELOOP


def test_what_a_list_that_failed_had_opened_is_closed_and_nothing_else(
    root: int, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    calls = Calls()
    place, other = calls.given(), calls.given()
    first = calls.call("openat", place, b"here", os.O_PATH)
    calls.close(first)
    second = calls.call("openat", place, b"here", os.O_PATH)
    calls.call("fcntl", second, 1030, 0)  # F_DUPFD_CLOEXEC
    calls.close(other)
    with calls.step("open", "there"):
        calls.call("openat", place, b"there", os.O_PATH)
        calls.call("mkdirat", place, b"never", 0o700)
    before = is_open()

    for _ in range(2):
        with pytest.raises(StepFailed, match="open `there`: No such file"):
            calls.run({place: root, other: os.open(tmp_path, os.O_PATH)})
        assert is_open() == before
    assert os.listdir(tmp_path) == ["here"]


def test_what_a_call_writes_is_read_and_forgotten_by_the_next_time(
    root: int, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("long text")
    calls = Calls()
    file = calls.call("openat", root, b"file", os.O_RDONLY | os.O_CLOEXEC)
    text = calls.buffer(16, b"before")
    size = calls.call("read", file, text, 16)
    calls.close(file)

    calls.run()
    assert calls.data(text, calls.result(size)) == b"long text"
    (tmp_path / "file").write_text("x")
    calls.run()
    assert calls.data(text, 6) == b"xefore"


def test_fewer_bytes_than_asked_for_are_no_space_left(root: int) -> None:
    full = os.open("/dev/null", os.O_WRONLY)
    calls = Calls()
    with calls.step("make", "file"):
        calls.call("write", full, b"text", 3, written=4)
    try:
        with pytest.raises(StepFailed, match="make `file`: No space left"):
            calls.run()
    finally:
        os.close(full)


def test_an_error_may_say_more_than_its_errno(root: int) -> None:
    calls = Calls()
    with calls.step("check", "/x"):
        calls.call("openat", root, b"x", os.O_PATH, why="there is no x: make one")

    with pytest.raises(StepFailed, match="check `/x`: there is no x: make one") as caught:
        calls.run()
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("directory", [True, False])
@pytest.mark.parametrize("path", ["/one", "one/two/three", "/one/two"])
def test_a_place_is_made_as_it_is_without_a_list(
    path: str, directory: bool, root: int, tmp_path: Path
) -> None:
    def made(find: Callable[[int], int], name: str) -> list[tuple[str, int]]:
        (tmp_path / name).mkdir()
        below = os.open(tmp_path / name, os.O_PATH)
        os.close(find(below))
        os.close(find(below))
        os.close(below)
        return sorted(
            (str(place.relative_to(tmp_path / name)), place.stat().st_mode)
            for place in (tmp_path / name).rglob("*")
        )

    def by_a_list(below: int) -> int:
        calls = Calls()
        found = paths.find_or_make_by(calls, below, path, directory=directory)
        calls.run()
        return calls.result(found)

    before = is_open()
    assert made(by_a_list, "list") == made(
        lambda below: paths.find_or_make(below, path, directory=directory), "directly"
    )
    assert is_open() == before


def test_a_link_on_the_way_is_an_error(root: int, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    calls = Calls()
    paths.find_or_make_by(calls, root, "/link/below", directory=True)

    with pytest.raises(StepFailed) as caught:
        calls.run()
    assert caught.value.errno == errno.ELOOP
    assert not os.listdir(tmp_path / "elsewhere")


def test_a_label_that_is_nowhere_is_a_mistake(root: int) -> None:
    calls = Calls()
    calls.call("openat", root, b".", os.O_PATH, then=calls.label())

    with pytest.raises(ValueError, match="a label that is nowhere"):
        calls.run()
