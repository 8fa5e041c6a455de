"""`sandbox_kernel.run` and `Sandbox` in real containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import sandbox_kernel
from sandbox_kernel import engine, errors, policy
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.container.events import Error

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


def test_code_runs_and_its_output_and_result_come_back() -> None:
    result = sandbox_kernel.run("print('hi')\n6 * 7")
    assert (result.stdout, result.text, result.status, result.ok) == ("hi\n", "42", 0, True)
    assert result.usage["cpu_seconds"] > 0


def test_it_is_another_machine_in_there() -> None:
    code = "import os; here = [os.getpid() < 10, os.path.exists('/root/.ssh'), os.listdir('/home')]"
    found = sandbox_kernel.run(code, outputs=["here"]).check().outputs["here"]
    assert found == [True, False, ["sandbox"]]


def test_the_umask_of_a_program_is_not_that_of_its_containers() -> None:
    code = (
        "import sandbox_kernel\n"
        "cell = 'import os; print(oct(os.umask(0)), oct(os.stat(\"/dev\").st_mode))'\n"
        "for user in ('root', 'nobody'):\n"
        "    print(sandbox_kernel.run(cell, user=user).check().stdout, end='')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, umask=0o077
    )
    assert done.stdout == "0o22 0o40755\n" * 2, done.stderr


def test_pid_1_tells_nothing_of_the_host() -> None:
    code = "text = open('/proc/1/cmdline').read().strip(chr(0))"
    assert sandbox_kernel.run(code, outputs=["text"]).check().outputs["text"] == "sandbox-init"


def test_a_program_that_closes_nothing_is_warned_of_nothing() -> None:
    code = "import sandbox_kernel\nsandbox_kernel.run('pass').check()"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_only_declared_descriptors_are_open_in_a_cell() -> None:
    code = "import os; fds = sorted(int(n) for n in os.listdir('/proc/self/fd'))"
    fds = sandbox_kernel.run(code, outputs=["fds"]).outputs["fds"]
    assert set(fds) <= {0, 1, 2, 3, 4, 5, 6, 7}


def test_values_go_in_and_out() -> None:
    array = np.arange(1_000_000.0)
    result = sandbox_kernel.run(
        "b = a * k['x']", inputs={"a": array, "k": {"x": 2}}, outputs=["b"], check=True
    )
    assert np.array_equal(result.outputs["b"], array * 2)


def test_memory_over_the_limit_ends_the_cell_and_says_so() -> None:
    result = sandbox_kernel.run("x = bytearray(300 << 20)", memory="64m")
    assert result.error is not None
    assert result.error.name == "OutOfMemory"
    with pytest.raises(errors.OutOfMemory) as caught:
        result.check()
    assert caught.value.limit == 64 << 20
    assert sandbox_kernel.run("1").ok


def test_time_over_the_limit_ends_the_cell_and_says_so() -> None:
    with pytest.raises(errors.TimedOut, match=r"0\.5 s"):
        sandbox_kernel.run("while True: pass", timeout="500ms", check=True)


def test_a_full_disk_is_named_with_its_size() -> None:
    code = "open('/tmp/x', 'wb').write(bytes(100 << 20))"
    with pytest.raises(errors.NoSpace) as caught:
        sandbox_kernel.run(code, storage_size="20m", memory="300m", check=True)
    assert caught.value.limit == 20 << 20


def test_too_many_processes_are_named() -> None:
    code = "import os, time\nfor i in range(99):\n    if os.fork() == 0: time.sleep(60)"
    result = sandbox_kernel.run(code, pids_limit=20)
    assert result.error is not None
    assert result.error.name == "TooManyProcesses"


def test_the_cells_own_exception_is_raised_with_its_traceback() -> None:
    with pytest.raises(errors.CellRaised) as caught:
        sandbox_kernel.run("def f(): 1 / 0\nf()", check=True)
    assert caught.value.name == "ZeroDivisionError"
    assert 'File "<cell>", line 1, in f' in caught.value.traceback


def test_any_program_of_the_image_can_have_the_cell() -> None:
    result = sandbox_kernel.run("echo $((6 * 7)); exit 3", program="sh")
    assert (result.stdout, result.status) == ("42\n", 3)
    assert isinstance(result.error and result.error.failure, errors.ProgramFailed)


def test_a_wrong_option_starts_nothing_and_is_named() -> None:
    with pytest.raises(errors.InvalidOption, match=r"memory.*banana"):
        sandbox_kernel.run("1", memory="banana")
    with pytest.raises(errors.InvalidOption, match="no such setting"):
        sandbox_kernel.run("1", memori="1g")


def test_a_sandbox_keeps_files_and_takes_new_limits() -> None:
    with sandbox_kernel.Sandbox(memory="200m") as sandbox:
        sandbox.run("x = 1\nopen('note', 'w').write('hi')", check=True)
        assert sandbox.run("print(open('note').read())").stdout == "hi\n"
        assert sandbox.run("x").error.name == "NameError"  # type: ignore[union-attr]
        assert sandbox.limits()["memory"] == 200 << 20
        assert sandbox.set_limits(memory="100m")["memory"] == 100 << 20


def test_a_busy_cell_is_interrupted_and_a_deaf_one_ended() -> None:
    quick = {"interrupt_grace": "300ms"}
    for code, name in (
        ("print('on')\nwhile True: pass", "KeyboardInterrupt"),
        ("import signal; signal.signal(2, lambda *a: 0)\nprint('on')\nwhile 1: pass", "Killed"),
    ):
        running = engine.start(policy.plan("program", **quick), CellRequest(code=code))
        error = None
        for event in running:
            if getattr(event, "text", "") == "on\n":
                running.interrupt()
            error = event if isinstance(event, Error) else error
        assert error is not None
        assert error.name == name


@pytest.mark.timeout(60)
def test_a_handler_may_signal_the_run_that_its_thread_waits_for() -> None:
    with Container.create(policy.plan("program")) as made:
        process = made.run(ProcessSpec(argv=("sleep", "600")))
        before = signal.signal(signal.SIGALRM, lambda *_: process.signal(signal.SIGTERM))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            assert process.wait(30).signal == signal.SIGTERM
        finally:
            signal.signal(signal.SIGALRM, before)
            process.close()


def test_nothing_that_a_cell_started_outlives_it() -> None:
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)"
    begin = time.monotonic()
    assert sandbox_kernel.run(code).ok
    assert time.monotonic() - begin < 30


def test_threads_may_run_cells_at_once() -> None:
    found: list[str | None] = []

    def work(number: int) -> None:
        found.append(sandbox_kernel.run(str(number)).text)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == [str(n) for n in range(8)]


def test_an_interrupt_that_another_thread_took_is_raised_while_a_cell_runs(
    interrupt_taken_by_another_thread: None,
) -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sandbox_kernel.run("import time; time.sleep(30)")
    assert time.monotonic() - begin < 10
