"""`sandbox_kernel.map` and functions as code, in real containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sandbox_kernel
from sandbox_kernel import engine, errors, policy, settings
from sandbox_kernel.container import cell

pytestmark = pytest.mark.everybody


@pytest.fixture(autouse=True, scope="module")
def _launcher() -> None:
    """The launcher of this process is started before anything is counted, and stays."""
    sandbox_kernel.run("pass").check()


@pytest.fixture(autouse=True)
def _no_descriptor_left(_launcher: None) -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def square(number: int) -> int:
    return number * number


def mean(values: np.ndarray, *, weight: float = 1.0) -> Any:
    import numpy

    return numpy.mean(values) * weight


@pytest.mark.whoever
def test_a_function_runs_in_a_container_and_its_value_comes_back() -> None:
    result = sandbox_kernel.run(mean, inputs={"values": np.arange(5.0), "weight": 2})

    assert result.check().value == 4.0
    assert result.container_id


@pytest.mark.whoever
def test_a_function_fails_with_the_lines_of_its_file() -> None:
    def divide(number: int) -> float:
        text = """
at the edge"""
        return number / len(text[:0])

    result = sandbox_kernel.run(divide, inputs={"number": 1})

    assert result.error is not None
    assert result.error.name == "ZeroDivisionError"
    line = divide.__code__.co_firstlineno + 3
    assert f'File "<function divide>", line {line}, in divide' in result.error.traceback


@pytest.mark.whoever
def test_a_coroutine_function_is_awaited() -> None:
    async def later(text: str) -> str:
        import asyncio

        await asyncio.sleep(0)
        return text * 2

    assert sandbox_kernel.run(later, inputs={"text": "ab"}).check().value == "abab"


def test_results_are_in_the_order_of_the_items_each_of_a_fresh_container() -> None:
    told: list[int] = []
    code = (
        "import os\nfirst = not os.path.exists('/tmp/mark')\nopen('/tmp/mark', 'w')\nn = item + k"
    )

    found = sandbox_kernel.map(
        code, range(6), inputs={"k": 10}, outputs=["n", "first"], workers=3, memory="100m",
        on_result=lambda index, result: told.append(index),
    )  # fmt: skip

    assert found.check().output("n") == [10, 11, 12, 13, 14, 15]
    assert found.output("first") == [True] * 6
    assert len({result.container_id for result in found}) == 6
    assert {result.limits["memory"] for result in found} == {100 << 20}
    assert sorted(told) == list(range(6))


@pytest.mark.whoever
def test_a_function_gets_each_item() -> None:
    assert sandbox_kernel.map(square, [1, 2, 3], check=True).values == [1, 4, 9]
    assert list(sandbox_kernel.map(square, [])) == []


@pytest.mark.whoever
def test_a_function_comes_compiled_and_a_python_with_other_byte_code_takes_its_text() -> None:
    made = cell.compiled_ahead(engine.cell_request(square, item="number"))
    plan = policy.plan(settings.PROGRAM)
    for compiled, value in (
        (made.compiled, 9),
        (b"\0\0\r\n" + made.compiled[4:], "of the text"),
        (b"", "of the text"),
    ):
        request = made.replaced(
            code="return_value = 'of the text'", compiled=compiled, inputs={"number": 3}
        )
        assert engine.gather(engine.start(plan, request), plan).check().value == value


def test_a_function_that_came_compiled_fails_with_its_lines() -> None:
    def divide(number: int) -> float:
        return 1 / number

    (_, failed) = sandbox_kernel.map(divide, [1, 0])

    assert failed.error is not None
    place = f'"<function divide>", line {divide.__code__.co_firstlineno + 1}, in divide'
    assert f"{place}\n    return 1 / number" in failed.error.traceback


def test_failures_are_named_by_item_and_the_others_are_there() -> None:
    found = sandbox_kernel.map("10 / item", [1, 0, 5, "x" * 100])

    assert [result.ok for result in found] == [True, False, True, False]
    assert found[2].text == "2.0"
    with pytest.raises(errors.ItemsFailed) as caught:
        found.check()
    assert "2 of 4 items failed: item 1 (`0`): ZeroDivisionError: division" in str(caught.value)
    assert [index for index, _, _ in caught.value.failures] == [1, 3]
    assert len(str(caught.value)) < 400


@pytest.mark.whoever
def test_an_item_that_can_not_cross_ends_all_and_is_named() -> None:
    with pytest.raises(errors.ValueNotTransferable, match="item") as caught:
        sandbox_kernel.map("item", [1, object()])

    assert "item 1 (`<object" in caught.value.__notes__[0]


@pytest.mark.whoever
def test_an_error_of_the_caller_ends_what_runs() -> None:
    def items() -> Iterator[int]:
        yield from (600, 600)
        raise RuntimeError("no more")

    begin = time.monotonic()
    with pytest.raises(RuntimeError, match="no more"):
        sandbox_kernel.map("import time\ntime.sleep(item)", items(), workers=2)
    assert time.monotonic() - begin < 30


@pytest.mark.fault(26)
def test_ctrl_c_ends_all_and_leaves_nothing() -> None:
    program = (
        "import sandbox_kernel, sys\n"
        "def told(index, result): print('one', flush=True)\n"
        "try: sandbox_kernel.map('import time; time.sleep(item)', [0, 600, 600, 600], workers=2,"
        " on_result=told)\n"
        "except KeyboardInterrupt:\n"
        "    from sandbox_kernel.container import list_all\n"
        "    from sandbox_kernel.runtime import client\n"
        "    folder = client.shared().about['folder']\n"
        "    print('left', [c for c in list_all() if c.folder == folder and c.runs])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == "one\n"
        p.send_signal(signal.SIGINT)
        assert p.stdout.read() == "left []\n"
    assert p.returncode == 0


def test_memory_bounds_how_many_run_at_once() -> None:
    with pytest.raises(errors.InvalidOption, match=r"workers.*at most \d+: each may use 1 GiB"):
        sandbox_kernel.map("1", [1], workers=10_000, memory="1g")
    (alone,) = sandbox_kernel.map("1", [1], workers=1)
    (shared,) = sandbox_kernel.map("1", [1], workers=4)
    assert shared.plan.memory is not None
    assert alone.plan.memory is not None
    assert shared.plan.memory < alone.plan.memory / 3


@pytest.mark.whoever
@pytest.mark.parametrize(
    ("code", "options", "needle"),
    [
        ("1", {"workers": 0}, "workers"),
        ("1", {"inputs": {"item": 1}}, "another name"),
        ("1", {"name": "a b"}, "names of variables"),
        (square, {"outputs": ["n"]}, "returns its value"),
        (square, {"inputs": {"other": 1}}, r"square\(number"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    code: Any, options: dict[str, Any], needle: str
) -> None:
    with pytest.raises(errors.InvalidOption, match=needle):
        sandbox_kernel.map(code, [1], **options)


def test_a_result_has_limits_read_back_and_the_digest_of_the_image() -> None:
    with sandbox_kernel.Sandbox(memory="200m", pids_limit=50) as sandbox:
        result = sandbox.run("1", check=True)
        assert result.limits["memory"] == 200 << 20
        assert result.limits["pids_limit"] == 50
        sandbox.set_limits(memory="100m")
        assert sandbox.run("1").limits["memory"] == 100 << 20
        assert result.digest == sandbox.digest != ""
        assert result.container_id == sandbox.id
        assert sandbox.run(square, inputs={"number": 3}).value == 9
