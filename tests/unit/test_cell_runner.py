"""A cell's output, displays, errors and order, with the runner as a plain process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from plain_process import Bounds, only, run, text

from sandbox_kernel.container.events import Clear, Display, Error, Finished, Notice, Result, Stderr

OTHERS = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
PYTHONS = [sys.executable, *(str(p) for p in OTHERS if p.parts[-3][:4] in ("3.8.", "3.13"))]


@pytest.fixture(params=PYTHONS, ids=lambda path: path.split("/")[-3])
def python(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_last_expression_is_shown_unless_a_semicolon_follows(python: str) -> None:
    assert only(run("x = 1\nx + 1", python=python), Result).data == {"text/plain": "2"}
    assert not any(isinstance(event, Result) for event in run("1 + 1;  # no", python=python))
    assert not any(isinstance(event, Result) for event in run("None", python=python))


def test_a_traceback_has_the_lines_of_the_notebook_and_no_frame_of_ours(python: str) -> None:
    code = "def f():\n    raise ValueError('why')\nf()"
    error = only(run(code, python=python, first_line=2), Error)
    assert (error.name, error.value) == ("ValueError", "why")
    assert "line 4, in <module>\n    f()" in error.traceback
    assert "line 3, in f\n    raise ValueError" in error.traceback
    assert "sandbox" not in error.traceback


def test_prints_warnings_and_displays_keep_their_order(python: str) -> None:
    code = (
        "import sys\nfor i in range(300):\n    print('a', i)\n"
        "    print('b', i, file=sys.stderr)\n    if i % 10 == 0: display(i)"
    )
    shown = ""
    for event in run(code, python=python):
        if isinstance(event, Display):
            shown += f"d {event.data['text/plain']}\n"
        elif not isinstance(event, Finished):
            shown += event.text  # type: ignore[union-attr]
    lines = [f"a {i}\nb {i}\n" + (f"d {i}\n" if i % 10 == 0 else "") for i in range(300)]
    assert shown == "".join(lines)


def test_output_of_subprocesses_comes_before_the_display_that_follows_it() -> None:
    code = "import subprocess\nsubprocess.run(['echo', 'hi'])\ndisplay(1)"
    kinds = [type(event).__name__ for event in run(code)]
    assert kinds == ["Stdout", "Display", "Finished"]


def test_await_at_the_top_works(python: str) -> None:
    code = "import asyncio\nawait asyncio.sleep(0)\n5"
    assert only(run(code, python=python), Result).data["text/plain"] == "5"


def test_exit_statuses_are_the_cells(python: str) -> None:
    assert only(run("import sys; sys.exit(0)", python=python), Finished).status == 0
    events = run("import sys; sys.exit(3)", python=python)
    assert only(events, Finished).status == 3
    assert only(events, Error).name == "SystemExit"
    assert only(run("import os; os._exit(4)", python=python), Finished).status == 4


def test_a_crash_names_the_signal() -> None:
    error = only(run("import os; os.kill(os.getpid(), 11)"), Error)
    assert error.name == "Killed"
    assert "SIGSEGV" in error.value


def test_a_magic_in_a_cell_gets_a_hint(python: str) -> None:
    error = only(run("!ls", python=python), Error)
    assert error.name == "SyntaxError"
    assert "--program sh" in error.traceback
    assert only(run("%matplotlib inline\n7", python=python), Result).data["text/plain"] == "7"


def test_a_display_can_be_updated_and_cleared() -> None:
    code = "h = display(1, display_id='x')\nh.update(2)\nfrom IPython.display import clear_output\n"
    events = run(code + "clear_output(wait=True)")
    first, second = (event for event in events if isinstance(event, Display))
    assert first.transient == second.transient == {"display_id": "x"}
    assert (first.update, second.update) == (False, True)
    assert only(events, Clear).wait


def test_rich_values_bring_their_mime_types() -> None:
    code = (
        "class A:\n    def _repr_html_(self): return '<b>a</b>'\n"
        "    def _repr_png_(self): return b'\\x89PNG'\n    def __repr__(self): return 'A'\nA()"
    )
    data = only(run(code), Result).data
    assert data == {"text/html": "<b>a</b>", "image/png": b"\x89PNG", "text/plain": "A"}


def test_figures_are_shown_at_the_end_of_the_cell() -> None:
    events = run("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert only(events, Display).data["image/png"].startswith(b"\x89PNG")


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    assert text(run("import os; os.write(1, b'a\\xff\\xc3')")) == "a\ufffd\ufffd"


def test_output_above_the_limit_is_cut_with_one_note_and_the_cell_goes_on() -> None:
    code = "for i in range(3000): print('x' * 1000)\nimport sys; sys.exit(5)"
    events = run(code, bounds=Bounds(output=100_000))
    assert len(text(events)) == 100_000
    assert "output cut" in only(events, Notice).text
    assert only(events, Finished).status == 5


def test_a_display_above_the_limit_is_passed_over() -> None:
    events = run("display('x' * 500_000)\nprint('after')", bounds=Bounds(output=100_000))
    assert "output cut" in only(events, Notice).text
    assert text(events) == "after\n"


@pytest.mark.parametrize(
    "garbage", ["b'\\xff' * 100", "b'\\0' * 100", "b'\\x02\\0\\0\\0' + bytes(8) + b'{}'"]
)
def test_what_is_no_frame_ends_the_displays_and_nothing_else(garbage: str) -> None:
    events = run(f"import os\nos.write(5, {garbage})\nprint('on')")
    assert "no message" in only(events, Notice).text
    assert text(events) == "on\n"


def test_a_frame_may_claim_any_length_and_costs_nothing() -> None:
    code = (
        'import os\nhead = b\'{"kind":"clear","wait":true,"sequence":1}\'\n'
        "os.write(5, len(head).to_bytes(4, 'little') + (1 << 62).to_bytes(8, 'little') + head)\n"
        "print('on')"
    )
    assert text(run(code)) == "on\n"


def test_nothing_of_the_working_folder_takes_the_place_of_our_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "traceback", "marshal", "faulthandler"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('taken')")
    (tmp_path / "mine.py").write_text("value = 3")
    monkeypatch.chdir(tmp_path)
    assert only(run("import mine\nmine.value"), Result).data["text/plain"] == "3"


def test_the_cell_sees_no_name_of_ours() -> None:
    assert text(run("print(sorted(n for n in globals() if n[:2] != '__'))")) == "[]\n"
    assert text(run("import sys; print('x', file=sys.stderr)"), Stderr) == "x\n"


def test_an_interrupted_line_is_never_written_twice(python: str) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGINT))\n"
        "count = 0\n"
        "for i in range(20_000):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, i % 50 * 1e-6 + 1e-6)\n"
        "        sys.stdout.write('%d\\n' % i)\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    except KeyboardInterrupt:\n"
        "        count += 1\n"
        "print('interrupts', count, file=sys.stderr)"
    )
    events = run(code, python=python)
    lines = text(events).splitlines()
    assert int(text(events, Stderr).split()[1]) > 10
    assert len(lines) > 1000
    assert len(lines) == len(set(lines))
