"""Corpus group F, what is said to Jupyter: values that are code, escapes.

Forged frames and messages are tried in `tests/unit/test_relay_wire.py`, `test_relay_outgoing.py`
and `test_output_policy.py`, floods and storms in
`tests/integration/test_floods.py` and `test_kernel_life.py`, a page of attacks in
`tests/browser/test_outputs.py`.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sandbox_kernel

COMMAND = str(Path(sys.executable).with_name("sandbox-kernel"))

EVIL = """
import numpy, pandas
class Evil:
    def __reduce__(self):
        import os
        return (os.system, ("touch " + where,))
alone = Evil()
array = numpy.array([Evil()], dtype=object)
frame = pandas.DataFrame({"a": [Evil()]})
listed = [1, {"a": Evil()}]
"""


@pytest.mark.parametrize("name", ["alone", "array", "frame", "listed"])
def test_f79_a_value_that_would_run_code_is_refused_and_runs_nothing(
    canaries, tmp_path: Path, name: str
) -> None:
    made = canaries.file.parent / "made"
    result = sandbox_kernel.run(EVIL, inputs={"where": str(made)}, outputs=[name])

    assert result.error is not None
    assert result.error.name == "ValueNotTransferable"
    assert name in result.error.value
    assert result.outputs == {}


def on_a_terminal(*words: str) -> bytes:
    """What the command writes to a terminal."""
    outer, inner = pty.openpty()
    running = subprocess.Popen([COMMAND, *words], stdin=subprocess.DEVNULL, stdout=inner)
    os.close(inner)
    said = b""
    deadline = time.monotonic() + 60
    while select.select([outer], [], [], max(0, deadline - time.monotonic()))[0]:
        try:
            said += os.read(outer, 4096)
        except OSError:  # the last one who had it open is gone
            break
    os.close(outer)
    assert running.wait(60) == 0
    return said


def test_f77_a_terminal_gets_colours_and_no_other_escape() -> None:
    write = r"printf '\033[31mred\033[0m\033]52;c;aGl0\007\033[2J\033]0;title\033\\end\n'"
    program = ["host", "/bin/sh", "-c", write]

    assert on_a_terminal("run", *program) == b"\x1b[31mred\x1b[0mend\r\n"
    assert b"\x1b]52;c;aGl0\x07" in on_a_terminal("run", "--output", "trusted", *program)
