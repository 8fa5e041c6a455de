"""The memory of a process that is forked from: what its children would copy for nothing.

A fork shares all pages until one side writes into one. A child of a Python does that without
changing anything: it counts references in the objects themselves, and what it makes fills gaps
between objects of the template, each on a page of its own. Both are ended here, by the last that a
template does before it forks.

Objects of a template live as long as it does, so nobody has to count references to them: they are
made immortal as `None` is (PEP 683), from CPython 3.12 on. In a child these are never taken away;
what a cell makes itself is, as always. The gaps are those of malloc(3) in the GNU C library, and of
the pools of Python's own allocator (Objects/obmalloc.c).

This goes along into containers as text (`container/program.py`), so it imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from types import CodeType, FrameType, FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ADAPTED = "_co_code_adaptive"
"""The attribute of code that has it as it is, with its counters."""
MORTAL_BEFORE = (3, 12)
UNTRIED_FROM = (3, 14)
"""Versions of CPython: the layout of a count of references is no promise of the next one."""
POOL_BYTES, POOL_HEADER = 16 << 10, 48
"""Objects/obmalloc.c, on machines of 64 bits."""
POOLED = range(512, 0, -16)
"""Sizes of blocks in pools."""
MOST_POOLS = 16
"""Filled of one size: where Python has another allocator (PYTHONMALLOC), no pool ever begins."""
LARGEST_GAP = 120 << 10
"""Above it malloc(3) maps what it gives, M_MMAP_THRESHOLD of mallopt(3)."""


def settle() -> None:
    """The last that a process with one thread does before its first fork."""
    gc.collect()
    make_immortal()
    gc.freeze()  # a child does not look through it for garbage
    fill_pools()
    fill_gaps()


def lay_together(go: Callable[[], None], also: Iterable[FunctionType]) -> int:
    """The code that each child writes to lies side by side from now on. How many functions it is.

    A Python that adapts its code to what it does counts in the code how often it came by (PEP 659,
    from 3.11 on), and where it can't adapt it counts on. `go` is the way of a child, gone before:
    which code it writes to is seen. `also` is what it leaves out.
    """
    if not hasattr(CodeType, ADAPTED):
        return 0
    found = [one for one in gc.get_objects() if isinstance(one, FunctionType)]
    # Numbers and not the bytes themselves, whose gaps each fork would have to copy.
    seen = [(one, _state(one)) for one in found if _has_run(one)]
    go()
    written = [one for one, before in seen if _state(one) != before]
    chosen = {id(one): one for one in (*written, *also)}.values()
    fill_gaps()
    # All of it is made before the first of the old is dropped, or it would fill the gaps of that.
    for one, code in [(one, _again(one.__code__)) for one in chosen]:
        one.__code__ = code
    return len(chosen)


def _has_run(function: FunctionType) -> bool:
    adapted: bytes = getattr(function.__code__, ADAPTED)
    return adapted != function.__code__.co_code


def _state(function: FunctionType) -> int:
    return hash(getattr(function.__code__, ADAPTED))


def _again(code: CodeType) -> CodeType:
    """The same code once more, and not in a pool, where each size has pages of its own: small code
    gets more of its last instruction, which leaves it, behind its end."""
    inner = tuple(_again(one) if isinstance(one, CodeType) else one for one in code.co_consts)
    last = code.co_code[-2:]
    missing = POOLED[0] + 16 - sys.getsizeof(code)
    # Where it begins with 0 it is the place of a counter of the last one.
    behind = last * (missing // 2) if last[0] else b""
    return code.replace(co_consts=inner, co_code=code.co_code + behind)


def make_immortal() -> int:
    """Nobody counts references to the objects that are there now, but for frames and what they
    alone know. How many these are; 0 where this Python can't do that."""
    version = sys.version_info[:2]
    if sys.implementation.name != "cpython" or not MORTAL_BEFORE <= version < UNTRIED_FROM:
        return 0
    word = ctypes.c_uint32.from_address
    immortal = word(id(None)).value
    if immortal < 1 << 31 or "t" in sys.abiflags:  # a Python without its lock counts otherwise
        return 0
    found = 0
    left = gc.get_objects()
    while left:
        one = left.pop()
        count = word(id(one))
        # Also those that were so before: what has references and is none of ours is in the list.
        if count.value >= 1 << 31 or isinstance(one, FrameType):
            continue
        # The mark is in the object: to keep the numbers of all would leave a MiB of pools that are
        # free and have been written to, and each fork takes as long over such a page as over any.
        count.value = immortal
        found += 1
        if isinstance(one, CodeType):  # tells the collector nothing
            left += (one.co_consts, one.co_names, one.co_filename, one.co_name, one.co_qualname)
            left += (one.co_linetable, one.co_exceptiontable)
        else:
            left += gc.get_referents(one)
    return found


def give_back() -> None:
    """The kernel gets what malloc(3) has no use for just now: after a start, of a process that
    will mostly wait."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


def fill_pools() -> None:
    """What is made from now on lies in pools of its own: those that are begun are filled up.

    In a new one the first block stays taken. A loop that makes one object after another, and drops
    each, would otherwise make the pool and take it apart again each time; in one that is nearly
    full it would as often move it, and take a quarter longer.
    """
    for size in POOLED:
        for number in range(MOST_POOLS * POOL_BYTES // size):
            one = _block(size, number)
            _kept.append(one)
            if id(one) % POOL_BYTES == POOL_HEADER:
                break


def _block(size: int, number: int) -> object:
    """An object of just this size, in a pool."""
    if size == POOLED[-1]:
        return object()
    if size == POOLED[-2]:
        return (1 << 29) + number
    return bytes(size - sys.getsizeof(b""))


_kept: list[object] = []


class _Usage(ctypes.Structure):
    """struct mallinfo2 of malloc.h, mallinfo(3): bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def fill_gaps() -> int:
    """What malloc(3) gives from now on lies behind all that it has given. The bytes of the gaps
    that this took; 0 where it is not that of the GNU C library from 2.33 on."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    malloc, free, end = libc.malloc, libc.free, libc.sbrk
    malloc.restype = end.restype = ctypes.c_void_p
    malloc.argtypes, free.argtypes = (ctypes.c_size_t,), (ctypes.c_void_p,)
    end.argtypes = (ctypes.c_ssize_t,)
    libc.mallinfo2.restype = _Usage
    libc.malloc_trim(0)  # joins what lies side by side
    behind = end(0) - libc.mallinfo2().keepcost
    filled = 0
    for size in range(LARGEST_GAP, 8, -16):
        while 0 < (one := malloc(size) or 0) < behind:
            filled += size
        free(one)  # was taken from the end, which now goes back to the kernel
    libc.malloc_trim(0)
    return filled
