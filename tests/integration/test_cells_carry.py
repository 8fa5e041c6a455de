"""The kernel "Sandbox Cells" in mode `carry`: each cell in a fork of the state after the last."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cell_promises import *  # noqa: F403
from cell_promises import AS_BEFORE, SEEN, STATE, error_of, notes, shown
from kernels import Kernel, cells_started, text_of

SYSTEM_PYTHON = "/usr/bin/python3"
pytestmark = pytest.mark.everybody


@pytest.mark.whoever
def test_undo_goes_back_several_cells_and_not_past_the_beginning(kernel: Kernel) -> None:
    for number in range(4):
        shown(kernel, f"number = {number}")

    shown(kernel, "%sandbox undo 2")
    assert shown(kernel, "number") == "1"
    assert "at most 3" in error_of(kernel, "%sandbox undo 9")
    shown(kernel, "%sandbox undo 3")
    assert "NameError" in error_of(kernel, "number")
    assert "none to take back" in error_of(kernel, "%sandbox undo")


@pytest.mark.whoever
def test_75_the_state_updates_what_it_has_shown_and_a_new_one_does_not(kernel: Kernel) -> None:
    def shows(code: str) -> list[tuple[str, str]]:
        _, outputs = kernel.run(code)
        bundles = [(m["msg_type"], m["content"]) for m in outputs if "data" in m["content"]]
        return [(kind, content["transient"]["display_id"]) for kind, content in bundles]

    ((_, first),) = shows("handle = display('one', display_id='d')")
    assert shows("handle.update('two')") == [("update_display_data", first)]
    shown(kernel, "%sandbox reset")

    assert shows("handle = display('three', display_id='d', update=True)") == []
    ((kind, second),) = shows("handle = display('three', display_id='d')")
    assert kind == "display_data"
    assert second != first


@pytest.mark.whoever
def test_several_variants_are_tried_from_one_named_state(kernel: Kernel) -> None:
    shown(kernel, STATE)
    shown(kernel, "%sandbox snapshot base")
    found = []
    for factor in (2, 3):
        shown(kernel, f"numbers[:] = [n * {factor} for n in numbers]; os.remove('/tmp/work/one')")
        found.append(shown(kernel, "numbers"))
        shown(kernel, "%sandbox restore base")

    assert found == ["[2, 4, 6]", "[3, 6, 9]"]
    assert shown(kernel, SEEN) == AS_BEFORE
    assert "base" in shown(kernel, "%sandbox snapshots")
    assert "names of snapshots: base" in error_of(kernel, "%sandbox restore other")


@pytest.mark.whoever
def test_undo_takes_a_restore_back(kernel: Kernel) -> None:
    shown(kernel, "value = 'old'")
    shown(kernel, "%sandbox snapshot first")
    shown(kernel, "value = 'new'")
    shown(kernel, "%sandbox restore first")

    shown(kernel, "%sandbox undo")

    assert shown(kernel, "value") == "'new'"


@pytest.mark.whoever
def test_random_numbers_go_on_where_the_state_was(kernel: Kernel) -> None:
    shown(kernel, "import random; random.seed(5); expected = random.Random(5)")
    first = shown(kernel, "random.random() == expected.random()")
    second = shown(kernel, "random.random() == expected.random()")

    assert (first, second) == ("True", "True")


@pytest.mark.whoever
def test_an_open_file_stays_open_in_the_next_cells(kernel: Kernel) -> None:
    shown(kernel, "files = [open(f'/tmp/open{n}', 'w') for n in range(6)]")
    shown(kernel, "[file.write(str(n)) for n, file in enumerate(files)];")
    shown(kernel, "[file.close() for file in files];")

    assert shown(kernel, "''.join(open(f'/tmp/open{n}').read() for n in range(6))") == "'012345'"


@pytest.mark.whoever
def test_what_can_not_be_carried_is_named(kernel: Kernel) -> None:
    said = notes(
        kernel,
        "import threading, time\n"
        "worker = threading.Thread(target=time.sleep, args=(60,), name='worker', daemon=True)\n"
        "worker.start()",
    )
    assert "thread `worker`" in said
    assert "1 open socket" in notes(kernel, "import socket; s = socket.socket()")
    said = notes(kernel, "import subprocess; p = subprocess.Popen(['sleep', '60'])")
    assert "1 process" in said
    assert shown(kernel, "threading.active_count()") == "1"


def test_a_cell_that_ends_every_other_process_is_told_what_is_lost(kernel: Kernel) -> None:
    shown(kernel, "numbers = [1]")

    reply, outputs = kernel.run("import os, signal\nnumbers.append(2)\nos.kill(-1, signal.SIGKILL)")

    assert reply["content"]["status"] == "ok"
    assert "the cell ended what keeps the files" in text_of(outputs, "stderr")
    assert shown(kernel, "numbers") == "[1, 2]"


def test_a_cell_that_ends_the_state_before_it_and_itself_begins_anew(kernel: Kernel) -> None:
    shown(kernel, "import os; numbers = [1]")

    said = error_of(kernel, "os.kill(-1, 9); os._exit(1)")

    assert "StateLost" in said
    assert "begins anew" in said
    assert shown(kernel, "1 + 1") == "2"
    assert "NameError" in error_of(kernel, "numbers")


@pytest.mark.whoever
@pytest.mark.parametrize(
    "said", [b"nonsense", b'{"at":"over","status":"0"}', b'{"at":"ready"}', b"x" * 60_000]
)
def test_a_cell_that_writes_to_our_socket_loses_itself_alone(kernel: Kernel, said: bytes) -> None:
    shown(kernel, "import os, socket; numbers = [1]")
    code = (
        "numbers.append(2)\n"
        "for fd in map(int, os.listdir('/proc/self/fd')):\n"
        "    try: own = os.readlink(f'/proc/self/fd/{fd}').startswith('socket')\n"
        "    except OSError: continue\n"
        f"    if own: os.write(fd, {said!r})\n"
        "import time; time.sleep(20)"
    )

    assert "Killed" in error_of(kernel, code)

    assert shown(kernel, "numbers") == "[1]"


@pytest.mark.whoever
def test_values_go_in_and_come_out_by_name_here_too(kernel: Kernel) -> None:
    shown(kernel, "%sandbox --out table\nimport numpy as np\ntable = np.arange(4)")
    shown(kernel, "%sandbox reset")
    shown(kernel, "%sandbox --out small\nsmall = {'a': 1}")

    assert shown(kernel, "del small") == ""
    assert shown(kernel, "%sandbox --in small\nsmall") == "{'a': 1}"


def test_many_cells_leave_no_more_than_the_states_that_are_kept(kernel: Kernel) -> None:
    shown(kernel, "count = 0")
    for _ in range(60):
        kernel.run("count += 1")
    before = _held(kernel.pid)
    for _ in range(60):
        kernel.run("count += 1")

    assert shown(kernel, "count") == "120"
    after = _held(kernel.pid)
    assert after <= before + 3


def _held(pid: int) -> int:
    """Descriptors of the kernel."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_an_image_can_be_chosen_before_the_first_cell(kernel: Kernel) -> None:
    shown(kernel, "%sandbox --env COLOUR=blue")
    assert shown(kernel, "import os; os.environ['COLOUR']") == "'blue'"
    assert "in a live container only" in error_of(kernel, "%sandbox --env COLOUR=red")


@pytest.mark.whoever
def test_a_magic_that_is_not_there_is_told_with_what_is(kernel: Kernel) -> None:
    reply, _ = kernel.run("%timeit 1")

    assert "%sandbox --help" in "\n".join(reply["content"]["traceback"])
    assert "mode fresh|carry" in shown(kernel, "%sandbox --help")


@pytest.mark.whoever
def test_completion_and_inspection_ask_the_state(kernel: Kernel) -> None:
    shown(kernel, "def total_of(values):\n    'Adds.'\n    return sum(values)")
    asked = kernel.client.complete("total_")
    assert kernel.client.get_shell_msg(timeout=20)["content"]["matches"] == ["total_of"]
    kernel.client.inspect("total_of")
    text = kernel.client.get_shell_msg(timeout=20)["content"]["data"]["text/plain"]

    assert asked
    assert "total_of(values)" in text
    assert "Adds." in text


@pytest.mark.whoever
def test_what_is_too_long_for_a_message_is_cut_and_not_the_state_lost(kernel: Kernel) -> None:
    shown(kernel, "def long():\n    pass\nlong.__doc__ = '\u5b57' * 20_000")
    kernel.client.inspect("long")
    text = kernel.client.get_shell_msg(timeout=20)["content"]["data"]["text/plain"]
    assert text.count("\u5b57") > 5_000
    shown(
        kernel, "globals().update({'many_' + 'x' * 200 + str(number): 1 for number in range(600)})"
    )
    kernel.client.complete("many_")
    matches = kernel.client.get_shell_msg(timeout=20)["content"]["matches"]
    assert len(matches) > 100
    assert all(len(match) > 200 for match in matches)


@pytest.mark.whoever
def test_a_function_of_an_earlier_cell_shows_its_line_in_a_traceback(kernel: Kernel) -> None:
    shown(kernel, "def broken():\n    return 1 / 0  # here")
    reply, _ = kernel.run("broken()")

    assert "# here" in "\n".join(reply["content"]["traceback"])


def test_the_mode_can_be_changed_and_limits_of_the_state_too(kernel: Kernel) -> None:
    shown(kernel, "x = 1")
    told = shown(kernel, "%sandbox --memory 128m")
    assert [line.split() for line in told.splitlines()] == [
        ["option", "value", "in", "force", "from"],
        ["memory", "128", "MiB", "yes", "magic"],
    ]
    assert "the limit is 1" in error_of(kernel, "y = [b'x' * (1 << 20) for _ in range(200)]")
    assert shown(kernel, "x") == "1"

    shown(kernel, "%sandbox mode fresh")
    assert "NameError" in error_of(kernel, "x")
    shown(kernel, "%sandbox mode carry")
    assert "NameError" in error_of(kernel, "x")
    shown(kernel, "x = 2")
    assert shown(kernel, "x") == "2"


def test_undo_brings_files_of_an_image_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "image"
    _python_image(root)
    (root / "etc").mkdir()
    (root / "etc/conf").write_text("of the image")
    (root / "old/deep").mkdir(parents=True)
    (root / "old/deep/file").write_text("deep")
    (root / "old/link").symlink_to("deep/file")
    (root / "old/deep/file").chmod(0o640)
    for path in [tmp_path, *tmp_path.parents[:2]]:
        path.chmod(path.stat().st_mode | 0o055)
    monkeypatch.chdir(tmp_path)  # only below it may a kernelspec name images
    seen = (
        "import os; [open('/etc/conf').read(), open('/old/link').read(), os.listdir('/old/deep'),"
        " oct(os.stat('/old/deep/file').st_mode & 0o777)]"
    )
    with cells_started(mode="carry", image=f"dir:{root}") as kernel:
        as_before = shown(kernel, seen)
        shown(kernel, "open('/etc/conf', 'w').write('changed');")
        shown(kernel, "import shutil; shutil.rmtree('/old'); os.remove('/etc/conf')")
        shown(kernel, "os.mkdir('/old'); open('/old/new', 'w').close()")
        shown(kernel, "%sandbox undo 3")

        assert as_before == "['of the image', 'deep', ['file'], '0o640']"
        assert shown(kernel, seen) == as_before
        assert shown(kernel, "os.path.exists('/old/new')") == "False"
    assert (root / "etc/conf").read_text() == "of the image"


def _python_image(root: Path) -> None:
    """The system's Python with its libraries, as a root file system."""
    needed = subprocess.run(
        ["/usr/bin/ldd", SYSTEM_PYTHON], capture_output=True, text=True, check=True
    )
    libraries = [word for word in needed.stdout.split() if word.startswith("/")]
    for source in (SYSTEM_PYTHON, *libraries):
        place = root / source.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    ask = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    found = subprocess.run([SYSTEM_PYTHON, "-c", ask], capture_output=True, text=True, check=True)
    library = found.stdout.strip()
    ignored = shutil.ignore_patterns("__pycache__", "test", "dist-packages", "config-*")
    shutil.copytree(library, root / library.lstrip("/"), symlinks=True, ignore=ignored)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_kernel_ends(number: int) -> None:
    with cells_started(mode="carry") as kernel:
        shown(kernel, "x = 1")
        shown(kernel, "import subprocess; p = subprocess.Popen(['sleep', '1000'])")
        waiting = kernel.client.execute("print('on', flush=True)\nwhile True: pass")
        kernel.wait_for("stream", "on")
        pid = kernel.pid
        os.kill(pid, number)
        assert waiting
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not os.path.exists(f"/proc/{pid}")
