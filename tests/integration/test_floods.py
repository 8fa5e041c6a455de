"""Outputs without end, from the kernel and from container cells: cut with a note, memory bounded.

What is measured is the largest resident size that the relay, or the program that runs the cells,
has ever had.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import kernels
import pytest
from kernels import Kernel, text_of

LIMIT = 16 << 20
FLOODS = {
    "a line of 1 GiB": "import os\nfor _ in range(1024): os.write(1, b'x' * (1 << 20))",
    "ten million short lines": "import os\nfor _ in range(1000): os.write(1, b'short\\n' * 10_000)",
    "ten million lines of a program": (
        "import subprocess\nsubprocess.run('yes | head -n 10000000', shell=True)"
    ),
    "a print of 300 MiB": "print('x' * (300 << 20))",
    "lines on both streams": (
        "import sys\nfor i in range(200_000):\n"
        "    print('out ' + 'o' * 60)\n    print('err ' + 'e' * 60, file=sys.stderr)"
    ),
    "a display of 300 MiB": (
        "from IPython.display import display\ndisplay({'text/plain': 'x' * (300 << 20)}, raw=True)"
    ),
    "very many displays": (
        "from IPython.display import display\n"
        "for i in range(2000): display({'text/plain': 'x' * 20_000}, raw=True)"
    ),
}
LARGE_COMM = "a comm message of 300 MiB"
COMMS = {
    LARGE_COMM: (
        "from comm import create_comm\n"
        "create_comm(target_name='x').send({}, buffers=[bytes(300 << 20)])"
    ),
    "very many comm messages": (
        "from comm import create_comm\nc = create_comm(target_name='x')\n"
        "for i in range(2000): c.send({'text': 'x' * 20_000})"
    ),
}
CELL = """\
import sys
from sandbox_kernel import engine, policy
from sandbox_kernel.container import events as e
from sandbox_kernel.container.cell import CellRequest

plan = policy.plan("program", output_limit=int(sys.argv[1]), memory="1g")
kept, notes = 0, []
for event in engine.start(plan, CellRequest(code=sys.argv[2])):
    if isinstance(event, e.Error):
        raise SystemExit(event.traceback)
    if isinstance(event, e.Notice):
        notes.append(event.text)
        continue
    kept += len(getattr(event, "text", ""))
assert len(notes) == 1, notes
assert "output cut" in notes[0]
assert kept <= plan.output_limit
# Not getrusage(2), which counts what the process was before execve(2), too.
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernels.started(output_limit=str(LIMIT), memory="1g") as one:
        one.run("pass")  # its container is there before a test looks at what is
        yield one
        with open(f"/proc/{one.pid}/status", encoding="ascii") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        print(f"the relay's peak: {peak >> 10} MiB")
        assert peak < 150 << 10


@pytest.mark.parametrize("code", (FLOODS | COMMS).values(), ids=(FLOODS | COMMS).keys())
def test_37_74_75_a_kernels_flood_is_cut_with_one_note_and_it_answers(
    kernel: Kernel, code: str
) -> None:
    if code == COMMS[LARGE_COMM] and "SANDBOX_KERNEL_TEST_MACHINE" in os.environ:
        pytest.skip("user-mode Linux maps each page by itself, and may map 65,530 of a process")
    reply, outputs = kernel.run(code)

    assert reply["content"]["status"] == "ok"
    assert sum("output cut" in str(m["content"].get("text", "")) for m in outputs) == 1
    size = sum(len(str(m["content"])) + sum(map(len, m["buffers"])) for m in outputs)
    assert size < 2 * LIMIT
    assert text_of(kernel.run("print('still here')")[1]) == "still here\n"


@pytest.mark.parametrize("code", FLOODS.values(), ids=FLOODS.keys())
def test_37_75_a_cells_flood_is_cut_with_one_note_and_takes_little_memory(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CELL, str(LIMIT), code],
        capture_output=True,
        text=True,
        timeout=2 * kernels.SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    print(f"peak: {int(done.stdout) >> 10} MiB")
    assert int(done.stdout) < 150 << 10


def test_bytes_that_are_no_utf8_come_out_replaced(kernel: Kernel) -> None:
    code = "import os\nos.write(1, b'a\\xff\\xfe\\xc3\\n'); os.write(2, b'\\xe2\\x82')\n"
    code += "import subprocess; subprocess.run(['printf', '\\\\377b\\\\n'])"
    reply, outputs = kernel.run(code)
    assert reply["content"]["status"] == "ok"
    shown = text_of(outputs)
    assert "a\ufffd\ufffd\ufffd\n" in shown
    if "\ufffdb\n" not in shown:  # a thread of ipykernel reads what other programs wrote
        kernel.wait_for("stream", "\ufffdb\\n")
