"""Values at the limits of a container: what does not fit is an error that says so, never a wait."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

import sandbox_kernel
from sandbox_kernel import errors

pytestmark = pytest.mark.everybody

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    sandbox_kernel.run("pass").check()
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_value_above_the_memory_limit_is_refused_by_name() -> None:
    code = "import numpy\nbig = numpy.broadcast_to(numpy.float64(1), (1 << 24,))\nsmall = 1"
    result = sandbox_kernel.run(code, outputs=["big", "small"], memory="100m")
    assert isinstance(result.exception, errors.ValueNotTransferable)
    assert "variable `big` of type `numpy.ndarray`" in str(result.exception)
    assert "--memory" in str(result.exception)
    assert result.outputs == {"small": 1}


def test_a_value_that_fills_the_memory_while_it_is_written_is_out_of_memory() -> None:
    code = "big = b'x' * (60 << 20)"
    result = sandbox_kernel.run(code, outputs=["big"], memory="100m")
    assert isinstance(result.exception, errors.OutOfMemory)
    assert "big" not in result.outputs
    assert sandbox_kernel.run("x = 1", outputs=["x"], memory="100m").outputs == {"x": 1}


@pytest.mark.whoever
def test_an_input_larger_than_the_memory_can_be_read_and_not_written() -> None:
    array = np.arange(32 * MIB)  # 256 MiB, and it is ours that it lies in
    code = "total = int(array.sum())"
    result = sandbox_kernel.run(code, inputs={"array": array}, outputs=["total"], memory="128m")
    assert result.check().outputs["total"] == int(array.sum())
    result = sandbox_kernel.run("array += 1", inputs={"array": array}, memory="128m")
    assert isinstance(result.exception, errors.OutOfMemory)
    assert array[0] == 0


def test_what_a_cell_writes_to_the_file_of_values_is_only_its_own_loss() -> None:
    code = """
import os
assert os.pwrite(7, b"\\xff" * 100_000, 0) == 100_000
for change in (lambda: os.ftruncate(7, 0), lambda: os.ftruncate(7, 1 << 50)):
    try:
        change()
    except PermissionError:
        pass
    else:
        raise AssertionError("its size was changed")
def lie(form, length):
    head = b'{"kind":"value","name":"a","format":"%s","offset":0,"length":%d,"details":{}}'
    head %= (form, length)
    os.write(5, len(head).to_bytes(4, "little") + bytes(8) + head)
for form in (b"npy", b"arrow", b"json", b"pickle"):
    lie(form, 100_000)
b = "fine"
"""
    result = sandbox_kernel.run(code, outputs=["a", "b"])
    assert isinstance(result.exception, errors.ValueNotTransferable)
    assert "variable `a`" in str(result.exception)
    assert result.outputs == {"b": "fine"}


def test_a_value_that_came_out_does_not_change_whatever_goes_on_inside() -> None:
    code = """
import os, numpy
a = numpy.zeros(1000, dtype="u1")
if os.fork() == 0:
    os.setsid()
    os.close(1), os.close(2), os.close(5)
    while True:
        os.pwrite(7, os.urandom(500), 200)
"""
    with sandbox_kernel.Sandbox() as sandbox:
        a = sandbox.run(code, outputs=["a"], check=True).outputs["a"]
        first = a.tobytes()
        sandbox.run("pass", check=True)
        assert a.tobytes() == first
        a[:] = 1
        assert a.sum() == 1000


@pytest.mark.whoever
def test_a_value_that_can_not_be_written_is_refused_by_name() -> None:
    code = "b = b'x' * (5 << 20)\nc = 1"
    result = sandbox_kernel.run(code, outputs=["b", "c"], ulimit=["fsize=1000000"])
    assert isinstance(result.exception, errors.ValueNotTransferable)
    assert "variable `b` of type `bytes`" in str(result.exception)
    assert "File too large" in str(result.exception)
    assert result.outputs == {"c": 1}


@pytest.mark.parametrize(
    "end",
    [
        "import atexit, os; atexit.register(os._exit, 3)",
        "import _thread, os, time\n"
        "def end():\n"
        "    time.sleep(0.3)\n"
        "    os._exit(3)\n"
        "_thread.start_new_thread(end, ())\n"
        "import atexit; atexit.register(time.sleep, 30)",
        "import threading, time, os\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), os._exit(3))).start()",
    ],
)
def test_values_are_out_before_what_goes_on_after_a_cell(end: str) -> None:
    result = sandbox_kernel.run(f"{end}\nfound = [1, 2]", outputs=["found"])
    assert result.outputs == {"found": [1, 2]}
    assert result.status == 3
