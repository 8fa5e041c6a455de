"""An array of 1 GiB into a fresh container and back, beside pickle through a pipe.

Ours copies the array once each way. In: `_write_at` of `container/values.py`, from the caller's
array into the sealed memory file of the request; the cell's array is a map of that. Out:
`write_at` of `inside/values.py`, from the cell's array into the memory file for values; that is
sealed at the end of the cell, and the caller's array is a map of it.

The peer is a new Python with no walls around it that gets the array by pickle through a pipe and
sends it back so: once as `multiprocessing` does it, once written by hand with the protocol for
large buffers, which copies less. Both sides read every page of what came back, so that a map is no
lighter than a copy. That it is what went in is compared after each round, outside of the time.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import sandbox_kernel
from benchmarks.pairs import Pair, measure

SIZE = 1 << 30
PAGE = 4096
ROUNDS = 5  # each moves 4 GiB
BY_MULTIPROCESSING = """
import numpy, sys
from multiprocessing.connection import Connection
source, sink = map(int, sys.argv[1:])
Connection(sink, readable=False).send(Connection(source, writable=False).recv())
"""
BY_HAND = """
import numpy, pickle, sys
source, sink = map(int, sys.argv[1:])
with open(source, "rb") as source, open(sink, "wb") as sink:
    pickle.dump(pickle.load(source), sink, protocol=5)
"""


def pairs(rounds: int) -> Iterator[Pair]:
    """Takes 5 GiB of memory."""
    array: Any = np.random.default_rng(1).integers(0, 1 << 62, SIZE // 8)
    came: list[Any] = []
    seen: set[str] = set()

    def arrived(back: Any) -> None:
        back[:: PAGE // back.itemsize].sum()
        came.append(back)

    def ours() -> None:
        result = sandbox_kernel.run("back = array", inputs={"array": array}, outputs=["back"])
        arrived(result.check().outputs["back"])
        assert result.container_id not in seen
        seen.add(result.container_id)

    def multiprocessing() -> None:
        with (
            _child(BY_MULTIPROCESSING) as (sink, source),
            Connection(sink, readable=False) as to_child,
            Connection(source, writable=False) as from_child,
        ):
            to_child.send(array)
            arrived(from_child.recv())

    def by_hand() -> None:
        with (
            _child(BY_HAND) as (sink, source),
            open(sink, "wb") as to_child,
            open(source, "rb") as from_child,
        ):
            pickle.dump(array, to_child, protocol=5)
            to_child.flush()
            arrived(pickle.load(from_child))

    def compare() -> None:
        assert np.array_equal(came.pop(), array)

    for peer, theirs, bound in (
        ("pickle through a pipe by `multiprocessing`", multiprocessing, 1 / 4),
        ("pickle through a pipe by protocol 5", by_hand, 1),
    ):
        yield measure(
            "an array of 1 GiB in and out",
            ours,
            peer,
            theirs,
            bound=bound,
            rounds=min(rounds, ROUNDS),
            warm=1,
            check=compare,
        )


@contextmanager
def _child(code: str) -> Iterator[tuple[int, int]]:
    """A new Python: the ends of two pipes, to it and from it, which the caller closes."""
    to_read, to_write = os.pipe2(os.O_CLOEXEC)
    from_read, from_write = os.pipe2(os.O_CLOEXEC)
    argv = [sys.executable, "-c", code, str(to_read), str(from_write)]
    child = subprocess.Popen(argv, pass_fds=(to_read, from_write))
    os.close(to_read)
    os.close(from_write)
    yield to_write, from_read
    assert child.wait() == 0
