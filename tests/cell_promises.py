"""What holds for cells in mode `carry`, whatever control groups the machine has."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from kernels import Kernel, cells_started, text_of


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    # As little as will do: what fills it takes long in the machine with cgroup v2.
    with cells_started(mode="carry", memory="128m", pids_limit=32) as kernel:
        kernel.run("%sandbox reset")  # what it starts once is there before the first test
        yield kernel


@pytest.fixture(autouse=True)
def anew(kernel: Kernel) -> Iterator[None]:
    """After each test there is no container, so that what is left of it is seen."""
    yield
    kernel.run("%sandbox reset")


def shown(kernel: Kernel, code: str) -> str:
    """All text of a cell that ends well: printed, shown, and its result."""
    reply, outputs = kernel.run(code)
    assert reply["content"]["status"] == "ok", reply["content"]
    bundles = [m["content"]["data"]["text/plain"] for m in outputs if "data" in m["content"]]
    return text_of(outputs) + "\n".join(bundles)


def notes(kernel: Kernel, code: str) -> str:
    """What the outside adds to a cell that ends well."""
    reply, outputs = kernel.run(code)
    assert reply["content"]["status"] == "ok", reply["content"]
    return text_of(outputs, "stderr")


def error_of(kernel: Kernel, code: str) -> str:
    """Name and text of the error of a cell."""
    reply, outputs = kernel.run(code)
    assert reply["content"]["status"] == "error", outputs
    return f"{reply['content']['ename']}: {reply['content']['evalue']}"


STATE = """\
import os, random
random.seed(7)
numbers = [1, 2, 3]
os.makedirs('/tmp/work/deep', exist_ok=True)
for name, text in (('one', 'first'), ('deep/two', 'second')):
    with open(f'/tmp/work/{name}', 'w') as file: file.write(text)
os.chmod('/tmp/work/one', 0o640)
os.symlink('one', '/tmp/work/link')
os.link('/tmp/work/one', '/tmp/work/again')
os.utime('/tmp/work/one', (1, 1))
with open('/dev/shm/shared', 'w') as file: file.write('in memory')
"""
SEEN = """\
import os
[numbers, sorted(os.listdir('/tmp/work')), open('/tmp/work/one').read(),
 open('/tmp/work/deep/two').read(), os.readlink('/tmp/work/link'), open('/dev/shm/shared').read(),
 oct(os.stat('/tmp/work/one').st_mode & 0o7777), os.stat('/tmp/work/one').st_mtime,
 os.path.samefile('/tmp/work/one', '/tmp/work/again'), os.path.exists('/tmp/new')]"""
AS_BEFORE = (
    "[[1, 2, 3],\n ['again', 'deep', 'link', 'one'],\n 'first',\n 'second',\n 'one',\n 'in memory',"
    "\n '0o640',\n 1.0,\n True,\n False]"
)

DESTRUCTIVE = {
    "removed by a command": "!rm -rf /tmp/work /dev/shm/shared",
    "removed by Python": "import shutil; shutil.rmtree('/tmp/work'); os.remove('/dev/shm/shared')",
    "variables deleted and changed": "numbers.clear(); del numbers",
    "overwritten in place": "open('/tmp/work/one', 'r+').write('FIRST')",
    "overwritten, times put back": (
        "open('/tmp/work/one', 'r+').write('FIRST'); os.utime('/tmp/work/one', (1, 1))"
    ),
    "cut": "os.truncate('/tmp/work/deep/two', 0)",
    "modes": "os.chmod('/tmp/work/one', 0o777); os.chmod('/tmp/work/deep', 0)",
    "replaced by others": (
        "os.remove('/tmp/work/one'); os.mkdir('/tmp/work/one'); os.remove('/tmp/work/link');"
        "open('/tmp/work/link', 'w').close(); open('/tmp/new', 'w').close()"
    ),
    "read-only folder": (
        "os.mkdir('/tmp/new'); open('/tmp/new/x', 'w').close(); os.chmod('/tmp/new', 0o500)"
    ),
    "written through a map": (
        "import mmap\nwith open('/tmp/work/one', 'r+b') as f:\n"
        "    with mmap.mmap(f.fileno(), 0) as m: m[:] = b'FIRST'\nos.utime('/tmp/work/one', (1, 1))"
    ),
}


@pytest.mark.parametrize("code", DESTRUCTIVE.values(), ids=DESTRUCTIVE.keys())
def test_undo_puts_variables_and_files_back(kernel: Kernel, code: str) -> None:
    shown(kernel, STATE)
    shown(kernel, code)

    assert "taken back: 1 cell" in shown(kernel, "%sandbox undo")

    assert shown(kernel, SEEN) == AS_BEFORE


def test_undo_comes_back_to_what_was_written_through_a_map(kernel: Kernel) -> None:
    shown(kernel, STATE)
    shown(kernel, "import time; time.sleep(0.1)")  # the file is old enough to be known by its times
    shown(
        kernel,
        "import mmap\nwith open('/tmp/work/one', 'r+b') as f:\n"
        "    with mmap.mmap(f.fileno(), 0) as m: m[:] = b'FIRST'",
    )
    shown(kernel, "open('/tmp/work/one', 'w').close()")

    shown(kernel, "%sandbox undo")

    assert shown(kernel, "open('/tmp/work/one').read()") == "'FIRST'"


BAD = {
    "an exception": ("numbers.append(4); os.remove('/tmp/work/one'); 1 / 0", "ZeroDivisionError"),
    "a syntax error": ("numbers.append(4\n", "SyntaxError"),
    "out of memory": (
        "numbers.append(4); x = [b'x' * (1 << 20) for _ in range(200)]",
        "OutOfMemory",
    ),
    "its process ends itself": ("numbers.append(4); os._exit(3)", "SystemExit"),
    "its process dies of a signal": ("numbers.append(4); os.kill(os.getpid(), 9)", "Killed"),
    "a fork bomb": (
        "numbers.append(4)\nwhile True:\n    os.fork()",
        "TooManyProcesses",
    ),
    "files fill the memory": (
        "with open('/tmp/new', 'wb') as file:\n    while True: file.write(bytes(1 << 20))",
        "",
    ),
    "files fill the shared memory": (
        "with open('/dev/shm/shared', 'wb') as file:\n    while True: file.write(bytes(1 << 20))",
        "",
    ),
}


@pytest.mark.parametrize(("code", "name"), BAD.values(), ids=BAD.keys())
def test_a_cell_that_ends_badly_leaves_the_state_as_it_was(
    kernel: Kernel, code: str, name: str
) -> None:
    shown(kernel, STATE)

    assert name in error_of(kernel, code)

    assert shown(kernel, SEEN) == AS_BEFORE
    assert shown(kernel, "[p for p in os.listdir('/proc') if p.isdigit()].__len__() < 8") == "True"


def test_an_interrupted_cell_leaves_the_state_as_it_was(kernel: Kernel) -> None:
    shown(kernel, STATE)
    waiting = kernel.client.execute(
        "numbers.clear()\nos.remove('/tmp/work/one')\nprint('on', flush=True)\nwhile True: pass"
    )
    kernel.wait_for("stream", "on")

    kernel.control("interrupt_request", {})

    assert kernel.finish(waiting)[0]["content"]["ename"] == "KeyboardInterrupt"
    assert shown(kernel, SEEN) == AS_BEFORE


@pytest.mark.parametrize("seconds", [0, 0.001, 0.002, 0.004])
def test_an_interrupt_is_not_lost_while_a_cell_begins(kernel: Kernel, seconds: float) -> None:
    shown(kernel, "import time; numbers = [1]")
    waiting = kernel.client.execute("numbers.clear()\nprint('on')\ntime.sleep(60)")
    time.sleep(seconds)
    began = time.monotonic()

    kernel.control("interrupt_request", {})
    reply, _ = kernel.finish(waiting)

    if reply["content"]["status"] == "ok":
        pytest.fail("the cell ended by itself")
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert time.monotonic() - began < 4
    assert shown(kernel, "numbers") == "[1]"


def test_a_cell_over_its_time_leaves_the_state_as_it_was(kernel: Kernel) -> None:
    shown(kernel, STATE)
    shown(kernel, "%sandbox --timeout 500ms")

    assert "TimedOut" in error_of(kernel, "numbers.clear()\nwhile True: pass")

    shown(kernel, "%sandbox --timeout none")
    assert shown(kernel, SEEN) == AS_BEFORE


def test_what_is_left_running_by_a_failed_cell_is_ended(kernel: Kernel) -> None:
    shown(kernel, "import os, subprocess")
    error_of(kernel, "subprocess.Popen(['sleep', '1000'], start_new_session=True); 1 / 0")

    running = shown(kernel, "!cat /proc/[0-9]*/comm")

    assert "sleep" not in running


def test_old_states_are_dropped_with_a_note_when_memory_is_short(kernel: Kernel) -> None:
    said = ""
    for _ in range(8):
        said += notes(kernel, "data = bytearray(12 << 20)")

    assert "oldest states dropped, since memory is short" in said
    assert shown(kernel, "len(data)") == str(12 << 20)
    shown(kernel, "%sandbox undo")
