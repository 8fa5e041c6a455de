"""The first code inside, in an interpreter of its own: what came is run, and is not kept."""

from __future__ import annotations

import importlib.util
import marshal
import os
import subprocess
import sys

import pytest

from sandbox_kernel.container import program

LARGE = 1 << 20
MAIN = """
import sys
def main():
    frame = sys._getframe(1)
    kept = [*frame.f_locals.values(), *frame.f_back.f_locals.values()]
    print(__name__, frame.f_code.co_name, max(map(sys.getsizeof, kept)) < 10_000)
"""


@pytest.mark.parametrize("magic", [b"none", None])
def test_what_came_is_run_and_its_bytes_are_let_go(magic: bytes | None) -> None:
    sources = {program.PACKAGE: "", f"{program.PACKAGE}.one": MAIN}
    codes = {name: compile(text, name, "exec") for name, text in sources.items()}
    compiled = marshal.dumps(codes)
    sources["other"] = "#" * LARGE
    data = b"".join(
        (
            program.source("boot").encode(), b"\0", magic or importlib.util.MAGIC_NUMBER,
            len(compiled).to_bytes(4, "little"), compiled, repr(sources).encode(),
        )
    )  # fmt: skip
    memory = os.memfd_create("program")
    os.write(memory, data)
    text = f"import os; os.dup2({memory}, 3)\n" + program.START.replace(".cell", ".one")
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True, text=True, check=False, pass_fds=[memory], timeout=60,
    )  # fmt: skip
    os.close(memory)
    assert done.stdout == "sandbox_inside.one boot True\n", done.stderr
