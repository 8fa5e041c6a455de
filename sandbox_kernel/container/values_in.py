"""Strict parsers of what a container gives out as the value of a variable. No pickle, no code."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ValueNotTransferable

if TYPE_CHECKING:
    import pyarrow

MOST_JSON = 256 << 20
MOST_HEADER = 10_000
CODES = {"int8", "int16", "int32", "int64"}  # what pandas numbers categories with
FREE_ROWS = 1 << 20  # rows that need no bytes (null columns) are counted up to here


class Wrong(Exception):
    """The bytes are not what they were announced to be."""


def parse(name: str, form: str, data: memoryview, details: Mapping[str, Any]) -> Any:
    """The value in `data`, which has to be whole and nothing more."""
    parsers = {"json": _json, "bytes": _bytes, "npy": _array, "arrow": _arrow}
    kind = _kind(form, details)
    if form not in parsers:
        raise ValueNotTransferable(name, kind, "no such format")
    try:
        return parsers[form](data, details)
    except Wrong as problem:
        raise ValueNotTransferable(name, kind, str(problem)) from None
    except ImportError as problem:
        why = f"install `{problem.name}` in the environment of the notebook ({problem})"
        raise ValueNotTransferable(name, kind, why) from None
    except Exception as problem:  # the libraries' parsers raise of every kind on hostile bytes
        why = f"its bytes are not well formed ({type(problem).__name__})"
        raise ValueNotTransferable(name, kind, why) from None


def _kind(form: str, details: Mapping[str, Any]) -> str:
    """The type that the value is to have, for an error about it."""
    if form == "arrow":
        series = bool(details.get("series"))
        match details.get("library"):
            case "pandas" | "polars" as library:
                return f"{library}.{'Series' if series else 'DataFrame'}"
            case _:
                return "pyarrow.Table"
    return {"npy": "numpy.ndarray"}.get(form, form)


def _json(data: memoryview, details: Mapping[str, Any]) -> Any:
    if len(data) > MOST_JSON:
        raise Wrong(f"{len(data)} bytes of JSON are above the limit of {MOST_JSON}")
    return json.loads(bytes(data))


def _bytes(data: memoryview, details: Mapping[str, Any]) -> bytes:
    return bytes(data)


def _array(data: memoryview, details: Mapping[str, Any]) -> Any:
    import numpy as np
    from numpy.lib import format as npy

    head = io.BytesIO(bytes(data[: MOST_HEADER + 128]))
    version = npy.read_magic(head)
    if version not in ((1, 0), (2, 0)):
        raise Wrong(f"version {version} of .npy is not used here")
    read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, kind = read(head, max_header_size=MOST_HEADER)
    if kind.hasobject:
        raise Wrong("an array of objects would need pickle")
    count = 1
    for length in shape:
        if type(length) is not int or length < 0:
            raise Wrong("a shape with a length that is no whole number from 0")
        count *= length
    if len(shape) > 64 or (kind.itemsize == 0 and count > FREE_ROWS):
        raise Wrong("a shape that no array has")
    rest = data[head.tell() :]
    if count * kind.itemsize != len(rest):
        raise Wrong(f"shape and type need {count * kind.itemsize} bytes, {len(rest)} are there")
    array: Any = np.ndarray(shape, kind, buffer=rest, order="F" if columns_first else "C")
    return array[()] if details.get("scalar") and not shape else array


def _arrow(data: memoryview, details: Mapping[str, Any]) -> Any:
    import pyarrow

    for message in _messages(data):
        if _is_compressed(message):
            raise Wrong("compressed Arrow is not taken: its true size is not known before")
    try:
        table = pyarrow.ipc.open_stream(pyarrow.py_buffer(data)).read_all()
        table.validate(full=True)  # offsets and lengths within the buffers
    except pyarrow.ArrowException as problem:
        raise Wrong(f"no well-formed Arrow stream ({type(problem).__name__})") from None
    for field in table.schema:
        _check_type(field.type)
    free = sum(1 for field in table.schema if pyarrow.types.is_null(field.type))
    if table.num_rows > max(FREE_ROWS, 8 * len(data)) or free * table.num_rows > FREE_ROWS:
        raise Wrong(f"{table.num_rows} rows are more than its bytes can hold")
    match details.get("library"):
        case "pandas":
            return _pandas(table, details)
        case "polars":
            return _polars(table, details)
        case _:
            return table


def _pandas(table: Any, details: Mapping[str, Any]) -> Any:
    import pyarrow

    # The metadata may name a type of pandas for a column. For a category that could be one that
    # writes its texts out, each as often as it occurs: a few bytes would be as large as they like.
    about = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
    for column in about.get("columns", ()):
        place = table.schema.get_field_index(column["field_name"])
        is_category = place >= 0 and pyarrow.types.is_dictionary(table.schema.field(place).type)
        if is_category and column["numpy_type"] not in CODES:
            raise Wrong("metadata that does not fit its columns")
    frame = table.to_pandas()
    if not details.get("series"):
        return frame
    series = frame.iloc[:, 0]
    return series if details.get("named") else series.rename(None)


def _polars(table: Any, details: Mapping[str, Any]) -> Any:
    import polars

    try:
        frame: Any = polars.from_arrow(table)
    except polars.exceptions.PanicException as problem:  # is no Exception
        raise Wrong("no well-formed Arrow stream (PanicException)") from problem
    return frame.to_series(0) if details.get("series") else frame


def _check_type(kind: pyarrow.DataType, depth: int = 0) -> None:
    """Only types whose values lie in the buffers, byte for byte: no views, runs or extensions."""
    from pyarrow import types

    if depth > 32:
        raise Wrong("types nested more than 32 deep")
    if types.is_dictionary(kind):
        if depth:  # pandas would write the texts out, each as often as it occurs
            raise Wrong("categories within another type")
        _check_type(kind.value_type, depth + 1)
    elif (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_struct(kind)
        or types.is_map(kind)
    ):
        # What takes no bytes could be there any number of times.
        if kind.num_fields == 0 or (types.is_fixed_size_list(kind) and kind.list_size == 0):
            raise Wrong(f"columns of type `{kind}` are not taken: convert them in the cell")
        for index in range(kind.num_fields):
            child = kind.field(index).type
            if types.is_null(child):
                raise Wrong("a null type within another")
            _check_type(child, depth + 1)
    elif not (
        types.is_null(kind) or types.is_primitive(kind) or types.is_decimal(kind)
        or types.is_string(kind) or types.is_large_string(kind)
        or types.is_binary(kind) or types.is_large_binary(kind)
    ):  # fmt: skip
        raise Wrong(f"columns of type `{kind}` are not taken: convert them in the cell")


def _messages(data: memoryview) -> Iterator[memoryview]:
    """The metadata of each message of an Arrow stream: marker, length, flatbuffer, body."""
    at = 0
    while at + 8 <= len(data):
        marker, length = struct.unpack_from("<Ii", data, at)
        if marker != 0xFFFFFFFF or length < 0 or at + 8 + length > len(data):
            raise Wrong("no Arrow stream")
        if length == 0:
            break
        metadata = data[at + 8 : at + 8 + length]
        yield metadata
        body = _field(metadata, _root(metadata), 3, "<q", 0)
        if not 0 <= body <= len(data):
            raise Wrong("no Arrow stream")
        at += 8 + length + -(-body // 8) * 8


def _is_compressed(metadata: memoryview) -> bool:
    """Whether this message is a RecordBatch (or a DictionaryBatch with one) with `compression`.

    Message: version, header type, header, bodyLength. RecordBatch: length, nodes, buffers,
    compression. DictionaryBatch: id, data. From Arrow's format/Message.fbs.
    """
    message = _root(metadata)
    kind = _field(metadata, message, 1, "<B", 0)
    table = _follow(metadata, message, 2)
    if kind == 2 and table:
        table = _follow(metadata, table, 1)
    return bool(kind in (2, 3) and table and _place(metadata, table, 3))


def _root(data: memoryview) -> int:
    return int(struct.unpack_from("<I", data, 0)[0])


def _place(data: memoryview, table: int, number: int) -> int:
    """Where field `number` of a flatbuffer's table lies, or 0 where it is absent."""
    try:
        start = table - struct.unpack_from("<i", data, table)[0]
        size = struct.unpack_from("<H", data, start)[0]
        if start < 0 or 4 + 2 * number + 2 > size:
            return 0
        offset = struct.unpack_from("<H", data, start + 4 + 2 * number)[0]
    except struct.error:
        raise Wrong("no Arrow stream") from None
    return table + offset if offset else 0


def _field(data: memoryview, table: int, number: int, code: str, default: int) -> int:
    place = _place(data, table, number)
    if place + struct.calcsize(code) > len(data):
        raise Wrong("no Arrow stream")
    return int(struct.unpack_from(code, data, place)[0]) if place else default


def _follow(data: memoryview, table: int, number: int) -> int:
    place = _place(data, table, number)
    return place + _field(data, table, number, "<I", 0) if place else 0
