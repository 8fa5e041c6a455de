"""Values of a cell in and out, seen from outside: JSON, .npy, Arrow, bytes in memory files.

What comes out of a container was written by whoever was in there. Every length is checked against
the bytes that are there before anything is allocated, every parser is one that only makes data,
and a file is sealed before it is read, so that it can't change under the reader.
"""

from __future__ import annotations

import fcntl
import json
import marshal
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import ValueNotTransferable
from . import values_in

PAGE = mmap.PAGESIZE
DEEP = 200
MOST_BYTES = 16 << 30
WORTH_A_MAP = 1 << 16
"""Bytes of a value from which on a map of its pages is cheaper than a copy."""
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
CAN = (
    "what can: None, bool, int, float, str, lists and dictionaries of these (keys str), bytes, "
    "numpy arrays without objects, Arrow tables, data frames"
)
FRAMES = {
    ("pandas", "DataFrame"), ("pandas", "Series"), ("polars", "DataFrame"), ("polars", "Series"),
    ("pyarrow", "Table"), ("pyarrow", "RecordBatch"),
}  # fmt: skip

Write = Callable[[int, int], None]  # to a descriptor, at an offset
Packed = tuple[str, dict[str, Any], int, Write]  # format, details, length, what writes it


def pack(request: Mapping[str, Any], inputs: Mapping[str, object]) -> int:
    """A sealed memory file with the request and the values of `inputs`: the descriptor.

    The request is in marshal's oldest format that has all types: it goes to a program of our own
    that may be another Python. Each value begins at a whole page, so that it can be mapped.
    """
    packed = [(name, *_packed(name, value)) for name, value in inputs.items()]
    start = PAGE
    while True:  # the request holds the places, and they depend on its length
        entries, end = [], start
        for name, form, details, length, _ in packed:
            entries.append((name, form, end, length, details))
            end += -(-length // PAGE) * PAGE
        text = marshal.dumps({**request, "inputs": entries}, 2)
        if len(text) + 8 <= start:
            break
        start = -(-(len(text) + 8) // PAGE) * PAGE + PAGE
    if end > MOST_BYTES:
        raise ValueNotTransferable(
            ", ".join(inputs), "all together", f"they need {end} bytes, at most {MOST_BYTES} can"
        )
    descriptor = os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, end)
        os.pwrite(descriptor, len(text).to_bytes(8, "little") + text, 0)
        for (_, _, offset, length, _), (_, _, _, _, write) in zip(entries, packed, strict=True):
            if length:
                write(descriptor, offset)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except OSError as problem:
        os.close(descriptor)
        why = f"{end} bytes of memory are not to be had ({problem.strerror}): pass less at once"
        raise ValueNotTransferable(", ".join(inputs), "all together", why) from problem
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _packed(name: str, value: object) -> Packed:
    if isinstance(value, (bytes, bytearray, memoryview)):
        whole = not isinstance(value, memoryview) or value.c_contiguous
        data = memoryview(value if whole else bytes(value)).cast("B")
        return "bytes", {}, len(data), _writer(data)
    module, kind = type(value).__module__.partition(".")[0], type(value).__name__
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _packed_array(name, value)
    if (module, kind) in FRAMES:
        return _packed_table(name, value, module)
    _check(name, value, value, (), 0)
    try:
        text = json.dumps(value).encode("ascii")
    except (ValueError, RecursionError) as problem:
        raise ValueNotTransferable(name, _kind(value), str(problem)) from None
    return "json", {}, len(text), _writer(text)


def _writer(data: bytes | memoryview) -> Write:
    def write(descriptor: int, offset: int) -> None:
        _write_at(descriptor, offset, data)

    return write


def _write_at(descriptor: int, offset: int, data: Any) -> None:
    """All of a buffer to a place: the one copy on the way in.

    By a system call and not through a map: the kernel takes a page for it without clearing it
    first and without a fault, which is half the time.
    """
    with memoryview(data) as whole:
        done = 0
        while done < whole.nbytes:
            done += os.pwrite(descriptor, whole[done:], offset + done)


def _packed_array(name: str, value: Any) -> Packed:
    import io

    import numpy as np
    from numpy.lib import format as npy

    scalar = isinstance(value, np.generic)
    array = np.asarray(value)
    if array.dtype.hasobject:
        why = "an array of objects would need pickle; " + CAN
        raise ValueNotTransferable(name, _kind(value), why)
    if isinstance(value, np.ma.MaskedArray):
        why = "an array with a mask would lose it; pass `.data` and `.mask` apart"
        raise ValueNotTransferable(name, _kind(value), why)
    head = io.BytesIO()
    details = npy.header_data_from_array_1_0(array)
    try:
        npy.write_array_header_1_0(head, details)
    except ValueError:  # field names that need more than 64 KiB
        head = io.BytesIO()
        npy.write_array_header_2_0(head, details)
    start = head.getvalue()

    def write(descriptor: int, offset: int) -> None:
        if array.nbytes and (array.flags.c_contiguous or array.flags.f_contiguous):
            _write_at(descriptor, offset, start)
            # As bytes, since not every type is one of the buffer protocol (dates).
            flat = (array if array.flags.c_contiguous else array.T).reshape(-1).view(np.uint8)
            _write_at(descriptor, offset + len(start), flat)
            return
        with mmap.mmap(descriptor, len(start) + array.nbytes, offset=offset) as area:
            area[: len(start)] = start
            with memoryview(area) as view:
                target: Any = np.ndarray(array.shape, array.dtype, view, len(start))
                np.copyto(target, array, casting="no")
                del target  # before the view that it looks at

    return "npy", {"scalar": scalar}, len(start) + array.nbytes, write


def _packed_table(name: str, value: Any, library: str) -> Packed:
    try:
        import pyarrow
    except ImportError:
        why = "data frames cross by Arrow: install `pyarrow` in the notebook's environment"
        raise ValueNotTransferable(name, _kind(value), why) from None
    details: dict[str, Any] = {"library": library}
    try:
        if type(value).__name__ == "Series":
            details |= {"series": True, "named": value.name is not None}
            value = value.to_frame()
        if library == "pandas":
            table = pyarrow.Table.from_pandas(value)
        elif library == "polars":
            if sys.modules["polars"].Object in value.dtypes:
                raise TypeError("a column of objects")
            # Of the types that every Arrow has: texts as views came late to the format.
            level = getattr(sys.modules["polars"], "CompatLevel", None)
            table = value.to_arrow(**({"compat_level": level.oldest()} if level else {}))
        else:
            single = isinstance(value, pyarrow.RecordBatch)
            table = pyarrow.Table.from_batches([value]) if single else value
    except (pyarrow.ArrowException, TypeError, ValueError) as problem:
        why = f"Arrow has no type for it: {problem}"
        raise ValueNotTransferable(name, _kind(value), why) from None

    def write_to(sink: Any) -> None:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
            if not table.num_rows:  # categories travel with rows: give it a batch of none
                none = [
                    c.chunk(0) if c.num_chunks else pyarrow.array([], c.type) for c in table.columns
                ]
                writer.write_batch(pyarrow.RecordBatch.from_arrays(none, schema=table.schema))

    def write(descriptor: int, offset: int) -> None:
        write_to(pyarrow.PythonFile(_Place(descriptor, offset), mode="w"))

    counted = pyarrow.MockOutputStream()
    write_to(counted)
    return "arrow", details, counted.size(), write


class _Place:
    """A file for pyarrow that writes at an offset of a descriptor."""

    closed = False

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._end = offset

    def write(self, data: Any) -> int:
        _write_at(self._descriptor, self._end, data)
        size = memoryview(data).nbytes
        self._end += size
        return size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The descriptor is not its own."""


def _check(name: str, whole: object, value: object, above: tuple[int, ...], depth: int) -> None:
    """Refuses what JSON would lose or change without a word."""
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return
    why = ""
    if not isinstance(value, (list, tuple, dict)):
        why = f"`{_kind(value)}` is no plain data; {CAN}"
    elif id(value) in above:
        why = "it contains itself"
    elif depth > DEEP:
        why = f"it is nested more than {DEEP} deep"
    elif isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)][:1]
        if wrong:
            why = f"a key of type `{_kind(wrong[0])}` is not str; {CAN}"
    if why:
        raise ValueNotTransferable(name, _kind(whole), why)
    items: Iterable[object] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, (list, tuple)):
        items = value
    for item in items:
        _check(name, whole, item, (*above, id(value)), depth + 1)


def _kind(value: object) -> str:
    module = type(value).__module__
    name = type(value).__qualname__
    return name if module == "builtins" else f"{module}.{name}"


class Outputs:
    """The memory file that a cell writes its values to: fixed size, sparse, read after the end."""

    def __init__(self, limit: int) -> None:
        self.limit = -(-limit // PAGE) * PAGE
        self.descriptor = os.memfd_create("values", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, self.limit)
        fixed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fixed)
        self.sealed = False

    def seal(self) -> None:
        """Call when the processes of the cell have ended: nobody can write from here on.

        A process that got hold of the file and lives on (in a container that is kept) makes the
        seal fail; then values are copied before they are parsed, as small ones always are.
        """
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SEALS)
            self.sealed = True
        except OSError:
            self.sealed = False

    def read(
        self, name: str, form: str, offset: int, length: int, details: Mapping[str, Any]
    ) -> Any:
        """The value that the cell announced so. Everything announced is checked here."""
        if offset % PAGE or not 0 <= offset <= offset + length <= self.limit:
            raise ValueNotTransferable(name, form, "the cell announced it outside of its file")
        if length == 0:
            data = memoryview(b"")
        elif self.sealed and length >= WORTH_A_MAP:
            # Private pages: what the caller changes in an array is copied, the rest is shared.
            private = mmap.mmap(self.descriptor, length, access=mmap.ACCESS_COPY, offset=offset)
            data = memoryview(private)
        else:
            copy = bytearray(length)
            os.preadv(self.descriptor, [copy], offset)
            data = memoryview(copy)
        return values_in.parse(name, form, data, details)

    def close(self) -> None:
        """The values that were read stay valid: each has its own map."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
