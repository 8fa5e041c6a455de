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

# In a template that cells are forked from, what is imported here is: nothing that takes long, and
# `_signal` for `signal`.
import _signal
import ctypes
import fcntl
import gc
import os
import select
import sys
import time
from types import CodeType, FrameType, FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

ADAPTED = "_co_code_adaptive"
"""The attribute of code that has it as it is, with its counters."""
NAMES_BEFORE_END = {(3, 12): 40, (3, 13): 48}
"""By version, how long before the end of a type stands where its names are."""
SHARES_NAMES = 1 << 9 | 1 << 4
"""Py_TPFLAGS_HEAPTYPE and Py_TPFLAGS_MANAGED_DICT, Include/object.h."""
HAS_VERSION = 1 << 19
"""Py_TPFLAGS_VALID_VERSION_TAG, Include/object.h."""
NAMES_ENTRY = 16
SPLIT = 2
"""DICT_KEYS_SPLIT: names without values."""
MORTAL_BEFORE = (3, 12)
UNTRIED_FROM = (3, 14)
"""Versions of CPython: the layout of a count of references is no promise of the next one."""
POOL_BYTES, POOL_HEADER = 16 << 10, 48
"""Objects/obmalloc.c, on machines of 64 bits. A header begins with the number of blocks taken."""
POOLED = range(512, 0, -16)
"""Sizes of blocks in pools."""
LEAST_ALONE = POOLED[0] + 16
"""What takes so many bytes is in no pool."""
PAGE = 4096
MOST_POOLS = 64
"""Filled of one size: where Python has another allocator (PYTHONMALLOC), no pool ever begins."""
NEW = 4
"""So few blocks are taken of a new pool. Not each is ours: what goes on here makes objects too."""
LOOKS = 16
"""So often code has run when it is adapted."""
FAR = 64
"""Descriptors below are those of what a fork becomes."""
NUMBER = 4
END = b"\xff" * NUMBER
M_ARENA_MAX = -8
"""malloc.h, mallopt(3)."""
LARGEST_GAP = 120 << 10
"""Above it malloc(3) maps what it gives, M_MMAP_THRESHOLD of mallopt(3)."""


def settle() -> None:
    """The last that a process with one thread does before its first fork."""
    give_versions()
    gc.collect()
    make_immortal()
    gc.freeze()  # a child does not look through it for garbage
    gc.collect()  # what Python keeps to use it again, tuples and lists, lies in the gaps
    fill_pools()
    fill_gaps()


def written_by(go: Callable[[], None]) -> list[FunctionType]:
    """The functions whose code `go` wrote to, which has been gone before.

    A Python that adapts its code to what it does counts in the code how often it came by (PEP 659,
    from 3.11 on), and where it can't adapt it counts on.
    """
    found = [one for one in _functions() if _has_run(one)]
    before = _states(found)
    go()
    return [found[number] for number in _changed(found, before)]


def written_by_a_fork(
    go: Callable[[Callable[[], None]], object], seconds: float
) -> list[FunctionType | type]:
    """The same of a way that only a fork can go, since it leaves threads: `go` calls what it gets
    when it has come to its end. Also the types whose names of attributes it wrote to. None where it
    fails or takes longer; nothing is left of it."""
    found: list[FunctionType | type] = [*_functions()]
    if not found:
        return []  # of a Python that writes nothing into code
    found += _with_names()
    before = _states(found)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            writing = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, FAR)

            def told() -> None:
                for number in _changed(found, before):
                    os.write(writing, number.to_bytes(NUMBER, "little"))
                os.write(writing, END)

            go(told)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        said = _all_of(reading, seconds)
    finally:
        os.close(reading)
        os.kill(child, _signal.SIGKILL)
        os.waitpid(child, 0)
    if said[-NUMBER:] != END:
        return []
    places = range(0, len(said) - NUMBER, NUMBER)
    return [found[int.from_bytes(said[at : at + NUMBER], "little")] for at in places]


def _all_of(reading: int, seconds: float) -> bytes:
    """What comes until the end, or until so much time has passed."""
    said, poll = b"", select.poll()
    poll.register(reading, select.POLLIN)
    until = time.monotonic() + seconds
    while poll.poll(max(0.0, 1000 * (until - time.monotonic()))):
        more = os.read(reading, 1 << 16)
        if not more:
            break
        said += more
    return said


def lay_together(written: Iterable[FunctionType | type]) -> int:
    """The code of these functions lies side by side from now on, and so do the names of attributes
    that these types have for their instances: children that write to them copy few pages. How many
    functions it is."""
    if not hasattr(CodeType, ADAPTED):
        return 0
    written = list(written)
    functions = (one for one in written if type(one) is FunctionType)
    chosen = {id(one): one for one in functions}.values()
    # All of it is made before the first of the old is dropped, or it would fill the gaps of that;
    # what several functions have together they keep together.
    codes = {id(one.__code__): one.__code__ for one in chosen}
    whole = {id(one): one for code in codes.values() for one in _with_inner(code)}.values()
    for code in whole:
        # To have it made again asks for what it was before it was adapted, which code keeps once
        # somebody asks; nothing else is to be made meanwhile.
        code.co_code  # noqa: B018
    pooled = _worth_a_pool(whole)
    filled: list[object] = []
    _fill_pools(filled)
    fill_gaps()
    again = {number: _again(code, pooled) for number, code in codes.items()}
    _move_names(one for one in written if isinstance(one, type))
    del filled
    keeps = _has_versions()
    for one in chosen:
        version = _version(one)
        kept = version.value
        one.__code__ = again[id(one.__code__)]
        if keeps:
            version.value = kept
    return len(chosen)


def _functions() -> list[FunctionType]:
    if not hasattr(CodeType, ADAPTED):
        return []
    return [one for one in gc.get_objects() if type(one) is FunctionType]


def _has_run(function: FunctionType) -> bool:
    adapted: bytes = getattr(function.__code__, ADAPTED)
    return adapted != function.__code__.co_code


def _states(found: list[Any]) -> memoryview[int]:
    """What their code, or names, are like, as numbers side by side: the bytes themselves, and an
    object for each number, would leave gaps of which each fork has a copy."""
    states = memoryview(bytearray(8 * len(found))).cast("q")
    for number, one in enumerate(found):
        states[number] = _state(one)
    return states


def _changed(found: list[Any], before: memoryview[int]) -> Iterator[int]:
    """The places of those whose code, or names, are not what they were."""
    for number, state in enumerate(before):
        if _state(found[number]) != state:
            yield number


def _state(one: FunctionType | type | CodeType) -> int:
    if isinstance(one, type):
        return hash(_names(_place_of_names(one).value))
    code = one if isinstance(one, CodeType) else one.__code__
    inner = (_state(part) for part in code.co_consts if isinstance(part, CodeType))
    return hash((getattr(code, ADAPTED), *inner))


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    """The code, and that of all functions in it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _with_inner(one)


def _worth_a_pool(codes: Iterable[CodeType]) -> set[int]:
    """The sizes of which there is so much code that it fills pages of a pool. What else is small
    would be alone on its page, as each size has a pool of its own."""
    saved: dict[int, int] = {}
    for code in codes:
        size = _pooled_size(code)
        saved[size] = saved.get(size, 0) + LEAST_ALONE - size
    return {size for size, bytes_saved in saved.items() if bytes_saved > PAGE // 2}


def _pooled_size(code: CodeType) -> int:
    return (sys.getsizeof(code) + 15) // 16 * 16


def _again(code: CodeType, pooled: set[int]) -> CodeType:
    """The same code once more. Small code of a size that is not in `pooled` gets more of its last
    instruction, which leaves it, behind its end, so that it goes to no pool."""
    inner = code.co_consts
    if any(isinstance(one, CodeType) for one in inner):
        inner = tuple(_again(one, pooled) if isinstance(one, CodeType) else one for one in inner)
    last = code.co_code[-2:]
    missing = LEAST_ALONE - sys.getsizeof(code)
    # Where it begins with 0 it is the place of a counter of the last one.
    if missing <= 0 or _pooled_size(code) in pooled or not last[0]:
        return code.replace(co_consts=inner)
    return code.replace(co_consts=inner, co_code=code.co_code + last * (missing // 2))


class _Names(ctypes.Structure):
    """struct _dictkeysobject, Include/internal/pycore_dict.h: the head of it."""

    _fields_ = (
        ("dk_refcnt", ctypes.c_ssize_t),
        ("dk_log2_size", ctypes.c_uint8),
        ("dk_log2_index_bytes", ctypes.c_uint8),
        ("dk_kind", ctypes.c_uint8),
        ("dk_version", ctypes.c_uint32),
        ("dk_usable", ctypes.c_ssize_t),
        ("dk_nentries", ctypes.c_ssize_t),
    )


def _place_of_names(kind: type) -> ctypes.c_void_p:
    """Where a type says where they are: `ht_cached_keys` of PyHeapTypeObject, cpython/object.h."""
    of_types: type = type
    behind = NAMES_BEFORE_END[sys.version_info[:2]]
    return ctypes.c_void_p.from_address(id(kind) + of_types.__basicsize__ - behind)


def _names(place: int | None) -> bytes:
    """All of what is there: the head, indices, and as many entries as there is place for."""
    head = _Names.from_address(place or 0)
    size = ctypes.sizeof(_Names) + (1 << head.dk_log2_index_bytes)
    return ctypes.string_at(place or 0, size + ((2 << head.dk_log2_size) // 3) * NAMES_ENTRY)


def _with_names() -> list[type]:
    """The types whose instances share what their attributes are called, where we know how. Each
    new instance writes to it (from CPython 3.12 on), as far as it has no place for it."""
    if sys.version_info[:2] not in NAMES_BEFORE_END or not _is_place_of_names():
        return []
    kinds = [one for one in gc.get_objects() if issubclass(type(one), type)]
    return [one for one in kinds if _has_names(one)]


def _has_names(kind: type) -> bool:
    flags = type.__dict__["__flags__"].__get__(kind)
    return flags & SHARES_NAMES == SHARES_NAMES and bool(_place_of_names(kind).value)


def _is_place_of_names() -> bool:
    """Whether it is, tried on a type."""

    class Tried:
        """Has instances with two attributes."""

        def __init__(self) -> None:
            self.one = self.more = 1

    Tried()
    if sys.implementation.name != "cpython" or "t" in sys.abiflags or not _has_names(Tried):
        return False
    head = _Names.from_address(_place_of_names(Tried).value or 0)
    return (head.dk_refcnt, head.dk_kind, head.dk_nentries) == (1, SPLIT, 2)


def _move_names(kinds: Iterable[type]) -> None:
    """Of those types that alone know them: no dictionary of an instance does."""
    malloc = ctypes.pythonapi.PyMem_Malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    for kind in kinds:
        place = _place_of_names(kind)
        if place.value and _Names.from_address(place.value).dk_refcnt == 1:
            names = _names(place.value)
            moved = malloc(len(names))
            ctypes.memmove(moved, names, len(names))
            place.value = moved  # what they were is left, for as long as this process lives


def _version(function: FunctionType) -> ctypes.c_uint32:
    """What calls that are adapted know a function by: `func_version`, Include/cpython/funcobject.h,
    the last member. It is lost with a new code, and to get another one writes to each function."""
    return ctypes.c_uint32.from_address(id(function) + type(function).__basicsize__ - 8)


def _has_versions() -> bool:
    """Whether that is where it is, and a function has it from its beginning, as from 3.12 on."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] >= UNTRIED_FROM:
        return False

    def tried() -> None:
        """Is what it is."""

    one: Any = tried
    version = _version(one)
    had = version.value
    one.__code__ = one.__code__.replace()
    return had != 0 and version.value == 0


def give_versions() -> None:
    """Types, and the names of modules, get the numbers that adapted code knows them by. They would
    get them in each child when they are first asked, one by one, and far apart."""
    flags = type.__dict__["__flags__"]
    for one in gc.get_objects():
        # `isinstance` asks what stands for another object for that.
        if issubclass(type(one), type) and not flags.__get__(one) & HAS_VERSION:
            try:  # without what a type of types does for itself
                type.__getattribute__(one, "no name of this kind is there")
            except AttributeError:
                continue
    for module in list(sys.modules.values()):
        if issubclass(type(module), ModuleType):
            # Past what a module does that is loaded when it is looked at.
            names = object.__getattribute__(module, "__dict__")
            if type(names) is dict and type(names.get("__builtins__", {})) in (dict, ModuleType):
                look = FunctionType(_look.__code__.replace(), names)
                try:
                    for _ in range(LOOKS):
                        look()
                except NameError:  # it has no name, or builtins of its own
                    continue


def _look() -> None:
    __name__  # noqa: B018 - of the module
    len  # noqa: B018 - of the builtins


def forget_lookups() -> None:
    """What was looked up in types is not known any more, so that no text lives for that alone.

    Names that are put together while a program runs are such texts; they lie wherever there was
    place, and each of them goes when a child looks up something else.
    """
    # The first from CPython 3.13 on.
    forget = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if forget:
        forget()


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
        if type(one) is str:
            hash(one)  # is kept in it, once somebody asks
        if type(one) is dict:  # tells the collector of its values alone, where all keys are texts
            left += one
        if isinstance(one, CodeType):  # tells the collector nothing
            left += (one.co_consts, one.co_names, one.co_filename, one.co_name, one.co_qualname)
            left += (one.co_linetable, one.co_exceptiontable)
        else:
            left += gc.get_referents(one)
    return found


def have_one_heap() -> None:
    """All threads that come have memory from the heap of the first one: with malloc(3) of the GNU C
    library each would begin a heap of its own, on pages of its own."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """The kernel gets what malloc(3) has no use for just now: after a start, of a process that
    will mostly wait."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


def fill_pools() -> None:
    """What is made from now on lies in pools of its own: those that are begun are filled up.

    In a new one the first blocks stay taken. A loop that makes one object after another, and drops
    each, would otherwise make the pool and take it apart again each time; in one that is nearly
    full it would as often move it, and take a quarter longer.
    """
    _fill_pools(_kept)


def _fill_pools(made: list[object]) -> None:
    """Puts into `made` what fills the pools that are begun, and begins one more of each size."""
    for size in POOLED:
        for number in range(MOST_POOLS * POOL_BYTES // size):
            one = _block(size, number)
            made.append(one)
            place = id(one) % POOL_BYTES
            begins = POOL_HEADER <= place < POOL_HEADER + NEW * size  # or a gap is there
            if begins and ctypes.c_uint.from_address(id(one) - place).value <= NEW:
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
