"""Values in and out of a cell: what crosses unchanged, what is refused, what a liar gets."""

from __future__ import annotations

import contextlib
import datetime
import enum
import io
import json
import math
import sys
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
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
        np.array([1, -2], dtype=">i4"),
        np.array(["2026-01-31T12", "NaT"], dtype=">M8[s]"),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.asfortranarray(np.array([["2026-01-01", "2026-01-02"]] * 3, dtype="M8[D]")),
        np.broadcast_to(np.float32(1.5), (2, 3)),
        np.zeros(3, dtype={"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 8]}),
        np.zeros((2, 2), dtype=[("x", "i2", (3,)), ("y", "S3")])[:, ::-1],
        np.rec.array([(1, 2.5), (3, 4.5)], dtype=[("x", "i4"), ("y", "f8")]),
        np.array([b"ab", b""]),
        np.array(["", ""]),
        np.array([1.5], dtype="f2"),
        np.array(["2026-01-01"] * 2, dtype="M8[ns]") - np.datetime64("2025-01-01"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back_the_same_and_can_be_written(array: np.ndarray) -> None:
    back = there_and_back(array)
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    back[...] = back


def test_what_no_json_has_comes_back_all_the_same() -> None:
    value = {
        "nan": math.nan,
        "minus": -math.inf,
        "zero": -0.0,
        "\ud800": "\udcff\0",
        "big": 10**4000,
    }
    back = there_and_back(value)
    assert math.isnan(back.pop("nan"))
    assert math.copysign(1, back["zero"]) == -1
    assert back == {key: value[key] for key in back}
    assert there_and_back((1, (2,))) == [1, [2]]


def test_bytes_of_every_kind_come_back_as_bytes() -> None:
    strided = memoryview(bytes(range(100)))[::3]
    for data in (bytearray(b"abc"), memoryview(b"abc"), strided, memoryview(np.ones((2, 3)))):
        assert there_and_back(data) == bytes(data)


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


DAY = datetime.date(2026, 1, 31)
PANDAS = pd.DataFrame(
    {
        "day": [DAY, None],
        "when": pd.to_datetime(["2026-01-31 12:00", None]).tz_localize("Europe/Vienna"),
        "took": pd.to_timedelta(["1 day", "2 ms"]),
        "size": pd.Categorical(["big", "small"], ["small", "big"], ordered=True),
        "count": pd.array([1, None], dtype="Int64"),
        "yes": [True, False],
        "text": ["x", None],
        "many": [np.array([1, 2]), np.array([], dtype="int64")],
    }
)
POLARS = pl.DataFrame(
    {
        "day": [DAY, None],
        "when": [datetime.datetime(2026, 1, 31, 12), None],
        "size": pl.Series(["big", "small"], dtype=pl.Enum(["small", "big"])),
        "kind": pl.Series(["a", "b"], dtype=pl.Categorical),
        "money": pl.Series(["1.10", "2.20"]).cast(pl.Decimal(10, 2)),
        "pair": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2)),
        "many": [["a"], []],
        "part": [{"x": 1}, {"x": None}],
        "none": [None, None],
        "raw": [b"\0", b""],
    }
)


@pytest.mark.parametrize(
    "frame",
    [
        PANDAS,
        PANDAS.set_index("when")[["took", "size"]],
        PANDAS.set_index(["day", "text"])[["count"]],
        PANDAS[["count"]].rename(columns={"count": 7}),
        PANDAS.iloc[:0],
        pd.DataFrame({("a", "x"): [1], ("a", "y"): [2]}),
        pd.DataFrame(index=["a", "b"]),
    ],
    ids=["all", "dates as index", "two levels", "number as name", "no rows", "levels", "index"],
)
def test_a_data_frame_of_pandas_stays_what_it_is(frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(there_and_back(frame), frame)


@pytest.mark.parametrize(
    "series",
    [
        PANDAS["size"],
        pd.Series([1.5, None], index=["a", "b"]),
        pd.Series([1, 2], name=3),
        pd.Series([1, 2], name=("a", "b")),
        pd.Series([], dtype="datetime64[ns]", name="empty"),
    ],
    ids=["categories", "no name", "number as name", "two names", "empty"],
)
def test_a_series_of_pandas_stays_what_it_is(series: pd.Series) -> None:
    pd.testing.assert_series_equal(there_and_back(series), series)


def test_frames_and_series_of_polars_stay_what_they_are() -> None:
    back = there_and_back(POLARS)
    assert back.schema == POLARS.schema
    assert back.equals(POLARS)
    for name in ("size", "many", "none"):
        series = there_and_back(POLARS[name])
        assert isinstance(series, pl.Series)
        assert (series.name, series.dtype) == (name, POLARS[name].dtype)
        assert series.equals(POLARS[name], null_equal=True)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (pd.DataFrame({"a": [1, "x"]}), "Arrow has no type"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "Duplicate"),
        (pd.Series([object()]), "Arrow has no type"),
        (pl.Series([object()], dtype=pl.Object), "Arrow has no type"),
        (POLARS.lazy(), "no plain data"),
        (pd.Index([1]), "no plain data"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_frame_that_arrow_has_no_type_for_is_refused(value: object, word: str) -> None:
    with pytest.raises(ValueNotTransferable, match="variable `a`") as caught:
        run("", inputs={"a": value})
    assert word in str(caught.value)
    code = "import pandas as pd\nb = pd.DataFrame({'a': [1, 'x']})"
    assert "Arrow has no type" in only(run(code, outputs=("b",)), Error).value


def test_a_library_that_one_side_lacks_is_named_with_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = "import sys\nsys.modules['pyarrow'] = None\nb = __import__('pandas').DataFrame()"
    value = only(run(code, outputs=("b",)), Error).value
    assert "variable `b` of type `pandas" in value
    assert "pyarrow" in value
    monkeypatch.setitem(sys.modules, "polars", None)
    found = only(run("import polars\nb = polars.Series([1])", outputs=("b",)), Error).value
    assert "variable `b` of type `polars.Series` can't cross: install `polars`" in found
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueNotTransferable, match=r"`a` of type `pandas.*install `pyarr"):
        run("", inputs={"a": PANDAS})


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
        ({1: 2}, "key"), ({"a": {None: 1}}, "NoneType"), ([10**5000], "digits"),
        ({1, 2}, "set"), (object(), "object"), (LOOP, "itself"), (DEEP, "deep"),
        (np.array([object()]), "pickle"), (Color.RED, "Color"), (lambda: 0, "function"),
        (1j, "complex"), ([datetime.date(2026, 1, 31)], "datetime.date"),
        ((i for i in ()), "generator"),
        (np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]), "pickle"),
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
        ("class A: pass\nb = A()", "A"), ("b = {'a': {None: 1}}", "NoneType"),
        ("b = []\nfor _ in range(500): b = [b]", "deep"), ("b = 1j", "complex"),
        ("b = (i for i in ())", "gen"), ("b = 10 ** 5000", "digits"),
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


def zero_sized() -> pa.Array:
    """A list of 2**31 - 1 elements that take no byte."""
    offsets = pa.py_buffer(np.array([0, 2**31 - 1], dtype="int32"))
    nothing = pa.StructArray.from_buffers(pa.struct([]), 2**31 - 1, [None])
    return pa.ListArray.from_buffers(
        pa.list_(pa.struct([])), 1, [None, offsets], children=[nothing]
    )


def test_what_takes_no_bytes_is_not_counted_a_billion_times() -> None:
    table = pa.table({"a": zero_sized()})
    with pytest.raises(ValueNotTransferable, match="not taken"):
        values_in.parse("b", "arrow", stream(table), {"library": "pandas"})
    empty = pa.FixedSizeListArray.from_buffers(
        pa.list_(pa.int8(), 0), 1000, [None], children=[pa.array([], pa.int8())]
    )
    with pytest.raises(ValueNotTransferable, match="not taken"):
        values_in.parse("b", "arrow", stream(pa.table({"a": empty})), {"library": "pandas"})


def test_categories_are_never_written_out() -> None:
    """A text of a megabyte that occurs a million times would be a terabyte."""
    codes = pa.array(np.zeros(1_000_000, dtype="int8"))
    category = pa.DictionaryArray.from_arrays(codes, ["x" * 1_000_000])
    table = pa.table({"a": category})
    back = values_in.parse("b", "arrow", stream(table), {"library": "pandas"})
    assert back["a"].dtype == "category"
    column = {"name": "a", "field_name": "a", "pandas_type": "unicode", "numpy_type": "string"}
    about = {"columns": [column], "index_columns": [], "column_indexes": []}
    lying = table.replace_schema_metadata({"pandas": json.dumps(about)})
    with pytest.raises(ValueNotTransferable, match="does not fit"):
        values_in.parse("b", "arrow", stream(lying), {"library": "pandas"})
    within = pa.table({"a": pa.ListArray.from_arrays([0, 1_000_000], category)})
    with pytest.raises(ValueNotTransferable, match="within another"):
        values_in.parse("b", "arrow", stream(within), {"library": "pandas"})


def test_metadata_that_polars_panics_over_is_the_one_error() -> None:
    field = pa.field("a", pa.large_string(), metadata={"_PL_ENUM_VALUES2": "99;x"})
    for metadata in ({"_PL_ENUM_VALUES2": "99;x"}, {"_PL_CATEGORICAL2": "9;9;u9;"}):
        kind = pa.dictionary(pa.uint8(), pa.large_string())
        field = pa.field("a", kind, metadata=metadata)
        column = pa.array(["x"], pa.large_string()).dictionary_encode().cast(kind)
        table = pa.table([column], schema=pa.schema([field]))
        with contextlib.suppress(ValueNotTransferable):
            values_in.parse("b", "arrow", stream(table), {"library": "polars"})


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
