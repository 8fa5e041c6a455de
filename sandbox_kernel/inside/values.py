"""Values of a cell in and out: JSON, numpy arrays as .npy, Arrow tables, bytes. Never pickle.

In: each value lies in the sealed memory file of the request, at a whole page, and is mapped, not
copied, unless it is small; what the cell changes is its own. Out: values are written into a memory
file of a fixed size that the outside gave, at whole pages, and announced by a frame with place and
length.
"""

import os
import sys

PAGE = 4096
DEEP = 200
CAN = (
    "what can: None, bool, int, float, str, lists and dictionaries of these (keys str), bytes, "
    "numpy arrays without objects, Arrow tables, data frames"
)


class Refused(Exception):
    """A value that can't cross, and why."""


def take(descriptor, entries):
    """Yields (name, value) for each entry (name, format, offset, length, details)."""
    view = None
    for name, form, offset, length, details in entries:
        try:
            if form in COPIED and length <= SMALL:
                data = os.pread(descriptor, length, offset)
            else:
                view = view or mapped(descriptor)
                data = view[offset : offset + length]
            value = READERS[form](data, details)
        except ImportError as problem:
            raise ImportError(
                "the input `%s` needs `%s` in the container, and the image lacks it (%s)"
                % (name, problem.name, problem),
                name=problem.name,
            ) from None
        yield name, value


def mapped(descriptor):
    """The whole file; what is written to it stays here."""
    import mmap

    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))


def read_json(data, details):
    import json

    return json.loads(str(data, "utf-8"))


def read_bytes(data, details):
    return bytes(data)


def read_array(data, details):
    import io

    import numpy
    from numpy.lib import format as npy

    head = io.BytesIO(bytes(data[:65536]))
    version = npy.read_magic(head)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, kind = read(head)
    order = "F" if columns_first else "C"
    array = numpy.ndarray(shape, kind, buffer=data[head.tell() :], order=order)
    return array[()] if details.get("scalar") else array


def read_arrow(data, details):
    import pyarrow

    table = pyarrow.ipc.open_stream(pyarrow.py_buffer(data)).read_all()
    library = details.get("library")
    if library == "pandas":
        frame = table.to_pandas()
        if not details.get("series"):
            return frame
        series = frame.iloc[:, 0]
        return series if details.get("named") else series.rename(None)
    if library == "polars":
        import polars

        frame = polars.from_arrow(table)
        return frame.to_series(0) if details.get("series") else frame
    return table


READERS = {"json": read_json, "bytes": read_bytes, "npy": read_array, "arrow": read_arrow}
COPIED = ("json", "bytes")
"""What is made of these keeps nothing of the bytes."""
SMALL = 1 << 20
"""Above it a map costs less than one more copy."""


def give(descriptor, names, namespace, channel, later):
    """Writes the values of these names and announces each, now or `later` (see `Channel.send`); one
    that can't cross is told so."""
    out = Out(descriptor)
    for name in names:
        try:
            if name not in namespace:
                raise Refused("", "the cell has not defined it")
            form, details, offset, length = out.add(namespace[name])
        except Refused as problem:
            kind, why = problem.args
            refused = {"kind": "refused", "name": name, "type": kind[:200], "why": why[:1000]}
            channel.send(refused, later=later)
            continue
        header = {"kind": "value", "name": name, "format": form}
        channel.send(dict(header, offset=offset, length=length, details=details), later=later)


class Out:
    """The memory file for values on their way out, and how far it is full."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.limit = os.fstat(descriptor).st_size
        self.end = 0

    def add(self, value):
        """Writes one value: (format, details, offset, length)."""
        kind = type(value).__module__ + "." + type(value).__qualname__
        kind = kind.replace("builtins.", "")
        for convert in (to_bytes, to_array, to_arrow, to_json):
            try:
                found = convert(value)
            except Refused as problem:
                raise Refused(kind, str(problem)) from None
            if found is not None:
                break
        form, details, write, length = found
        offset = self.end
        if offset + length > self.limit:
            raise Refused(
                kind,
                "it needs %d bytes, and %d are left: give less, or raise `--memory`"
                % (length, self.limit - offset),
            )
        try:
            if length:
                write(self.descriptor, offset)
        except OSError as problem:
            raise Refused(
                kind, "%d bytes can't be written: %s" % (length, problem.strerror)
            ) from None
        self.end = -(-(offset + length) // PAGE) * PAGE
        return form, details, offset, length


def write_at(descriptor, offset, data):
    """All of a buffer to a place: the one copy on the way out.

    By a system call and not through a map: the kernel takes a page for it without clearing it
    first and without a fault, which is half the time.
    """
    with memoryview(data) as whole:
        done = 0
        while done < whole.nbytes:
            done += os.pwrite(descriptor, whole[done:], offset + done)


def to_bytes(value):
    if not isinstance(value, (bytes, bytearray, memoryview)):
        return None
    whole = not isinstance(value, memoryview) or value.c_contiguous
    data = memoryview(value if whole else bytes(value)).cast("B")
    return "bytes", {}, writer(data), len(data)


def writer(data):
    def write(descriptor, offset):
        write_at(descriptor, offset, data)

    return write


def to_array(value):
    """numpy's arrays and scalars. Other libraries' arrays have to be converted by the cell."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
        return None
    import io
    import mmap

    from numpy.lib import format as npy

    if isinstance(value, numpy.ma.MaskedArray):
        raise Refused("an array with a mask would lose it; pass `.data` and `.mask` apart")
    scalar = isinstance(value, numpy.generic)
    array = numpy.asarray(value)
    if array.dtype.hasobject:
        raise Refused("an array of objects would need pickle; " + CAN)
    head = io.BytesIO()
    details = npy.header_data_from_array_1_0(array)
    try:
        npy.write_array_header_1_0(head, details)
    except ValueError:
        head = io.BytesIO()
        npy.write_array_header_2_0(head, details)
    start = head.getvalue()

    def write(descriptor, offset):
        if array.nbytes and (array.flags.c_contiguous or array.flags.f_contiguous):
            write_at(descriptor, offset, start)
            # As bytes, since not every type is one of the buffer protocol (dates).
            flat = (array if array.flags.c_contiguous else array.T).reshape(-1).view(numpy.uint8)
            write_at(descriptor, offset + len(start), flat)
            return
        with mmap.mmap(descriptor, len(start) + array.nbytes, offset=offset) as area:
            area[: len(start)] = start
            with memoryview(area) as view:
                target = numpy.ndarray(array.shape, array.dtype, view, len(start))
                numpy.copyto(target, array, casting="no")
                del target  # before the view that it looks at

    return "npy", {"scalar": scalar}, write, len(start) + array.nbytes


def to_arrow(value):
    """Tables of pyarrow, and data frames of pandas and polars where pyarrow is there."""
    module = type(value).__module__.split(".")[0]
    name = type(value).__name__
    if (module, name) not in FRAMES:
        return None
    try:
        import pyarrow
    except ImportError:
        raise Refused("data frames cross by Arrow, and the image has no pyarrow") from None
    details = {"library": module}
    try:
        if name == "Series":
            details.update(series=True, named=value.name is not None)
            value = value.to_frame()
        if module == "pandas":
            table = pyarrow.Table.from_pandas(value)
        elif module == "polars":
            if sys.modules["polars"].Object in value.dtypes:
                raise TypeError("a column of objects")
            # Of the types that every Arrow has: texts as views came late to the format.
            level = getattr(sys.modules["polars"], "CompatLevel", None)
            table = value.to_arrow(**({"compat_level": level.oldest()} if level else {}))
        else:
            table = value if name == "Table" else pyarrow.Table.from_batches([value])
    except (pyarrow.ArrowException, TypeError, ValueError) as problem:
        raise Refused("Arrow has no type for it: %s" % problem) from None
    counted = pyarrow.MockOutputStream()
    write_table(pyarrow, counted, table)

    def write(descriptor, offset):
        write_table(pyarrow, pyarrow.PythonFile(Place(descriptor, offset), mode="w"), table)

    return "arrow", details, write, counted.size()


FRAMES = {
    ("pandas", "DataFrame"), ("pandas", "Series"), ("polars", "DataFrame"), ("polars", "Series"),
    ("pyarrow", "Table"), ("pyarrow", "RecordBatch"),
}  # fmt: skip


def write_table(pyarrow, sink, table):
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
        if not table.num_rows:  # categories travel with rows: give it a batch of none
            none = [
                c.chunk(0) if c.num_chunks else pyarrow.array([], c.type) for c in table.columns
            ]
            writer.write_batch(pyarrow.RecordBatch.from_arrays(none, schema=table.schema))


class Place:
    """A file for pyarrow that writes at an offset of a descriptor."""

    closed = False

    def __init__(self, descriptor, offset):
        self.descriptor = descriptor
        self.end = offset

    def write(self, data):
        write_at(self.descriptor, self.end, data)
        size = memoryview(data).nbytes
        self.end += size
        return size

    def flush(self):
        """Nothing is held back."""

    def close(self):
        """The descriptor is not its own."""


def to_json(value):
    import json

    check_json(value, set(), 0)
    try:
        data = json.dumps(value).encode("ascii")
    except (ValueError, RecursionError) as problem:  # a number with too many digits
        raise Refused(str(problem)) from None
    return "json", {}, writer(data), len(data)


def check_json(value, above, depth):
    """Refuses what JSON would lose or change without a word."""
    if value is None or isinstance(value, (bool, str)):
        return
    if type(value) in (int, float):
        return
    if not isinstance(value, (list, tuple, dict)):
        raise Refused("`%s` is no plain data; %s" % (type(value).__qualname__, CAN))
    if id(value) in above:
        raise Refused("it contains itself")
    if depth > DEEP:
        raise Refused("it is nested more than %d deep" % DEEP)
    above.add(id(value))
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise Refused("a key of type `%s` is not str; %s" % (type(key).__qualname__, CAN))
        items = value.values()
    else:
        items = value
    for item in items:
        check_json(item, above, depth + 1)
    above.discard(id(value))
