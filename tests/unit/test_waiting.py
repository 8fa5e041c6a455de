"""Descriptors with numbers that select(2) refuses are waited for as others are."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator

import pytest

from sandbox_kernel.linux import waiting

HIGH = 2000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HIGH), hard))
    low = os.pipe()
    ends = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, HIGH) for end in low)
    for end in low:
        os.close(end)
    try:
        yield ends[0], ends[1]
    finally:
        for end in ends:
            try:
                os.close(end)
            except OSError:
                continue  # the test closed it
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_has_something_to_read_is_readable(pipe: tuple[int, int]) -> None:
    assert not waiting.readable(pipe[0])
    os.write(pipe[1], b"x")
    assert waiting.readable(pipe[0], None)


def test_an_end_can_be_read_and_written(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    assert waiting.writable(pipe[1])


def test_a_full_pipe_takes_nothing(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    assert waiting.writable(pipe[1])
    with pytest.raises(BlockingIOError):
        while True:
            os.write(pipe[1], bytes(1 << 16))
    assert not waiting.writable(pipe[1])


def test_several_are_told_apart(pipe: tuple[int, int]) -> None:
    assert waiting.ready([pipe[0]], [pipe[1]], 0) == ([], [pipe[1]])
    os.write(pipe[1], b"x")
    assert waiting.ready([pipe[0]], [pipe[1]], 0) == ([pipe[0]], [pipe[1]])
