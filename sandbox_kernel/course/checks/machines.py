"""Checks of chapter 3: pages of memory that are there, and a process with a view of its own."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text, same

PAGES, PRESENT = 16, 5
ENTRY = 8
"""Bytes in /proc/PID/pagemap for each page: Documentation/admin-guide/mm/pagemap.rst."""
PAGEMAP = "/proc/self/pagemap"
VERSION = "/proc/version"


def touched(variables: Variables) -> Iterator[Fact]:
    """Of the pages of `block` some are present, and no others."""
    block = variables.get("block")
    label = same("block")
    wanted = Text(f"an mmap of {PAGES} pages", f"{PAGES} 页的 mmap")
    if not isinstance(block, mmap.mmap) or block.closed:
        raise looking.missing(label, Text("no mmap", "不是 mmap"), wanted, "block")
    count = len(block) // mmap.PAGESIZE
    yield fact(label, Text(f"{count} pages", f"{count} 页"), wanted, count == PAGES, "block")
    bits = present(block)
    yield fact(
        Text("pages present", "存在的页"),
        f"{sum(bits)}: {''.join(map(str, bits))}",
        same(str(PRESENT)),
        sum(bits) == PRESENT,
        PAGEMAP,
    )


def guest(variables: Variables) -> Iterator[Fact]:
    """A process that has the kernel of this notebook, and a view of its own."""
    pid = looking.process(variables, "guest")
    version = looking.read(VERSION).strip()
    theirs = looking.read(f"/proc/{pid}/root{VERSION}").strip()
    yield fact(
        Text("its kernel", "它的内核"),
        theirs.partition(" (")[0],
        Text("the same", "相同"),
        theirs == version,
        f"/proc/{pid}/root{VERSION}",
    )
    ours, own = looking.namespaces(os.getpid()), looking.namespaces(pid)
    for kind in ("uts", "pid"):
        yield fact(
            same(kind),
            str(own[kind]),
            Text(f"not {ours[kind]}, which is ours", f"不是我们的 {ours[kind]}"),
            own[kind] != ours[kind],
            f"/proc/{pid}/ns/{kind}",
        )


def present(block: mmap.mmap) -> list[int]:
    """A 1 for each page that has something behind it."""
    view = (ctypes.c_char * len(block)).from_buffer(block)
    first = ctypes.addressof(view) // mmap.PAGESIZE
    count = len(block) // mmap.PAGESIZE
    del view  # so that the learner can close the block
    with open(PAGEMAP, "rb", buffering=0) as table:
        table.seek(ENTRY * first)
        entries = table.read(ENTRY * count)
    return [entries[ENTRY * number + 7] >> 7 for number in range(count)]
