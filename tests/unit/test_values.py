"""Values in and out of a cell: what crosses unchanged, what is refused, what a liar gets."""

from __future__ import annotations

import contextlib
import enum
import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from plain_process import Bounds, only, run, values

from sandbox_kernel.container import values_in
from sandbox_kernel.container.events import Error
from sandbox_kernel.errors import ValueNotTransferable


def there_and_back(value: object) -> Any:
    return values(run("b = a", inputs={"a": value}, outputs=("b",)))["b"]


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**70), 1.5, math.inf, "", "ü\udcff\n", [], {}, [1, [2, {"k": None}]],
        b"", b"\0\xff" * 5000,
    ],
)  # fmt: skip
def test_plain_data_comes_back_the_same(value: object) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


def test_all_plain_values_cross_at_once() -> None:
    inputs = {f"v{i}": list(range(i)) for i in range(200)}
    code = "total = sum(len(globals()['v%d' % i]) for i in range(200))"
    assert values(run(code, inputs=inputs, outputs=("total",))) == {"total": 19900}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(10)[::-2],
        np.zeros((0, 3)),
        np.array(5),
        np.array(["a", "bü"]),
        np.array(["2026-01-01"], dtype="datetime64[D]"),
        np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", ">f8")]),
        np.array([True, False]),
        np.array([1 + 2j]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back_the_same_and_can_be_written(array: np.ndarray) -> None:
    back = there_and_back(array)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    back[...] = back


def test_a_numpy_number_stays_one() -> None:
    back = there_and_back(np.float32(1.5))
    assert type(back) is np.float32


def test_what_a_cell_does_to_an_input_stays_there() -> None:
    array = np.zeros(3)
    back = values(run("a += 1\nb = a", inputs={"a": array}, outputs=("b",)))["b"]
    assert back.tolist() == [1, 1, 1]
    assert array.tolist() == [0, 0, 0]


def test_tables_and_frames_cross_by_arrow() -> None:
    frame = pd.DataFrame({"n": [1, 2], "s": ["x", None], "t": pd.to_datetime(["2026-01-01"] * 2)})
    pd.testing.assert_frame_equal(there_and_back(frame), frame)
    table = pa.table({"a": [1, None], "l": [[1], []]})
    assert there_and_back(table).equals(table)


class Color(enum.IntEnum):
    RED = 1


LOOP: list[object] = []
LOOP.append(LOOP)
DEEP: list[object] = []
for _ in range(500):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({1: 2}, "key"), ({1, 2}, "set"), (object(), "object"), (LOOP, "itself"), (DEEP, "deep"),
        (np.array([object()]), "pickle"), (Color.RED, "Color"), (lambda: 0, "function"),
        (np.ma.masked_array([1], [True]), "mask"),
    ],
)  # fmt: skip
def test_what_would_change_is_refused_on_the_way_in(value: object, word: str) -> None:
    with pytest.raises(ValueNotTransferable, match="variable `a`") as caught:
        run("", inputs={"a": value})
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("b = {1, 2}", "set"), ("b = []; b.append(b)", "itself"), ("b = {1: 2}", "key"),
        ("import numpy; b = numpy.array([object()])", "pickle"), ("pass", "not defined"),
        ("class A: pass\nb = A()", "A"), ("b = 10 ** 5000", "digits"),
    ],
)  # fmt: skip
def test_what_would_change_is_refused_on_the_way_out(code: str, word: str) -> None:
    error = only(run(code, outputs=("b",)), Error)
    assert isinstance(error.failure, ValueNotTransferable)
    assert "variable `b`" in error.value
    assert word in error.value


def test_values_above_the_bound_are_refused() -> None:
    events = run("b = bytes(100_000)", outputs=("b",), bounds=Bounds(values=50_000))
    assert "are left" in only(events, Error).value


def announced(place: str) -> Any:
    head = '{"kind":"value","name":"b","format":"bytes",%s,"details":{}}'
    code = (
        f"import os\nhead = {head % place!r}.encode()\n"
        "os.write(5, len(head).to_bytes(4, 'little') + bytes(8) + head)"
    )
    return only([e for e in run(code, outputs=("b",)) if "not defined" not in str(e)], Error)


@pytest.mark.parametrize(
    "place",
    ['"offset":0,"length":99999999999', '"offset":-4096,"length":1', '"offset":1,"length":1',
     '"offset":0,"length":-1'],
)  # fmt: skip
def test_a_place_outside_of_the_file_is_refused(place: str) -> None:
    assert "outside" in announced(place).value


def header(text: bytes, rest: bytes = b"") -> memoryview:
    text = text.ljust(118) + b"\n"
    return memoryview(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + rest)


@pytest.mark.parametrize(
    "data",
    [
        header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"),
        header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }", bytes(8)),
        header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        header(b"{'descr': '|V0', 'fortran_order': False, 'shape': (4611686018427387904,), }"),
        header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(9)),
        header(b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,), }"),
        header(b"[" * 100), memoryview(b"\x93NUMPY"), memoryview(b""),
    ],
)  # fmt: skip
def test_an_array_that_lies_is_refused(data: memoryview) -> None:
    with pytest.raises(ValueNotTransferable):
        values_in.parse("b", "npy", data, {})


def stream(table: pa.Table, **options: Any) -> memoryview:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table)
    return memoryview(sink.getvalue())


def test_compressed_arrow_and_types_that_grow_are_refused() -> None:
    table = pa.table({"a": list(range(1000))})
    assert values_in.parse("b", "arrow", stream(table), {}).equals(table)
    with pytest.raises(ValueNotTransferable, match="compressed"):
        values_in.parse("b", "arrow", stream(table, compression="zstd"), {})
    runs = pa.RunEndEncodedArray.from_arrays([2_000_000_000], ["x"])
    with pytest.raises(ValueNotTransferable, match="not taken"):
        values_in.parse("b", "arrow", stream(pa.table({"a": runs})), {})
    nulls = pa.table({"a": pa.nulls(1 << 30)})
    with pytest.raises(ValueNotTransferable, match="rows"):
        values_in.parse("b", "arrow", stream(nulls), {})


GOOD = {
    "npy": None,
    "arrow": bytes(stream(pa.table({"a": [1, 2, 3], "s": ["x", "yy", None], "l": [[1], [], [2]]}))),
    "json": b'{"a": [1, 2.5, "x", null]}',
}
_sink = io.BytesIO()
npy.write_array(_sink, np.arange(20))
GOOD["npy"] = _sink.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(GOOD)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 4000),
)
def test_bytes_changed_anywhere_give_a_value_or_the_one_error(
    form: str, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(GOOD[form] or b"")
    for place, byte in changes:
        data[place % len(data)] = byte
    with contextlib.suppress(ValueNotTransferable):
        values_in.parse("b", form, memoryview(bytes(data[: max(1, cut)])), {})
