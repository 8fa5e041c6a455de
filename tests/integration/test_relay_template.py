"""A kernel whose relay is forked from a template: nobody can tell, whatever of it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import kernels
import leftovers
import psutil
import pytest
from awaiting import until
from kernels import Kernel, text_of

from sandbox_kernel.kernel import stub
from sandbox_kernel.runtime import client

everybody = pytest.mark.everybody


@pytest.fixture
def warm() -> None:
    """A holder with a kernel that waits, and a template beside it."""
    make_warm()


def make_warm() -> None:
    with kernels.started(holder=True) as kernel:
        kernel.run("pass")
        until(is_warm)


def is_warm() -> bool:
    found = client.find_holder()
    if found is None or not any(template["ready"] for template in found.pool()):
        return False
    path = stub.place(stub.identity())
    channel = stub.connect(path) if path else None
    if channel:
        channel.close()
    return channel is not None


def named(name: str) -> list[psutil.Process]:
    """Processes below this run of the tests with a name; other runs have theirs."""
    below = psutil.Process(leftovers.keeper_pid()).children(recursive=True)
    found = []
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == name:
                found.append(process)
    return found


def relay_of(kernel: Kernel) -> psutil.Process:
    """The fork of the template that speaks for the process that Jupyter started."""
    (relay,) = (
        process
        for process in named("sandbox-relay")
        if kernel.manager.connection_file in " ".join(process.cmdline())
    )
    return relay


def inside_of(kernel: Kernel) -> psutil.Process:
    """Pid 1 of its container."""
    name = text_of(kernel.run("import socket; print(socket.gethostname())")[1]).strip()
    found = client.find_holder()
    assert found is not None
    channel = found.connect()
    try:
        return psutil.Process(channel.request("inspect", {"container": name})["pid"])
    finally:
        channel.close()


def test_folder_environment_and_descriptors_are_those_of_the_process_that_jupyter_started(
    warm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sandbox.toml").write_text('pids_limit = 77\nenv = ["FROM_FILE=1"]\n')
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        with kernels.started(holder=True, memory="300m") as kernel:
            relay, face = relay_of(kernel), psutil.Process(kernel.pid)
            assert relay.cwd() == face.cwd() == str(tmp_path)
            assert "Umask:\t0027" in Path(f"/proc/{relay.pid}/status").read_text()
            for number in (0, 1, 2):
                theirs, ours = (os.stat(f"/proc/{p.pid}/fd/{number}") for p in (relay, face))
                assert (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
            shown = str(kernel.run("%sandbox")[1])
            assert "300 MiB" in shown
            assert "77" in shown
            assert text_of(kernel.run("import os; print(os.environ['FROM_FILE'])")[1]) == "1\n"
    finally:
        os.umask(before)


def test_a_sigint_and_a_sigterm_to_the_stub_are_for_the_kernel(warm: None) -> None:
    with kernels.started(holder=True) as kernel:
        relay = relay_of(kernel)
        cell = kernel.client.execute(
            "import time\nprint('on', flush=True)\nfor _ in range(600): time.sleep(0.1)"
        )
        kernel.wait_for("stream", "on")
        os.kill(kernel.pid, signal.SIGINT)
        assert kernel.finish(cell)[0]["content"]["ename"] == "KeyboardInterrupt"
        assert text_of(kernel.run("print(1)")[1]) == "1\n"

        os.kill(kernel.pid, signal.SIGTERM)
        assert kernel.manager.provisioner.process.wait(10) == 0  # type: ignore[union-attr]
        psutil.wait_procs([relay], timeout=10)
        assert not relay.is_running()


@pytest.mark.fault(2)
@everybody
def test_of_a_killed_stub_nothing_is_left_and_a_restart_gets_the_same_ports(warm: None) -> None:
    with kernels.started(holder=True) as kernel:
        kernel.run("left = 1")
        relay, inside = relay_of(kernel), inside_of(kernel)
        kernel.client.execute("while True: pass")
        os.kill(kernel.pid, signal.SIGKILL)
        assert not psutil.wait_procs([relay, inside], timeout=10)[1]

        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=kernels.SECONDS)
        assert kernel.run("left")[0]["content"]["ename"] == "NameError"
        # The relay before this one has the ports until it hears of the kill, and is stopped now.
        until(is_warm)
        relay = relay_of(kernel)
        relay.suspend()
        threading.Timer(1.0, relay.resume).start()
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=kernels.SECONDS)
        assert text_of(kernel.run("print(2)")[1]) == "2\n"


@pytest.mark.fault(2)
def test_of_a_killed_relay_nothing_is_left_and_the_stub_ends(warm: None) -> None:
    with kernels.started(holder=True) as kernel:
        inside = inside_of(kernel)
        relay_of(kernel).kill()
        assert kernel.manager.provisioner.process.wait(10) == stub.LOST_STATUS  # type: ignore[union-attr]
        assert not psutil.wait_procs([inside], timeout=10)[1]
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=kernels.SECONDS)
        assert text_of(kernel.run("print(3)")[1]) == "3\n"


def test_kernels_go_on_without_their_template_and_the_next_start_has_one_again(warm: None) -> None:
    until(is_warm)
    with kernels.started(holder=True) as kernel:
        kernel.run("x = 4")
        (template,) = named("sandbox-relays")
        template.kill()
        assert text_of(kernel.run("print(x)")[1]) == "4\n"
        with kernels.started(holder=True) as other:
            assert text_of(other.run("print(5)")[1]) == "5\n"
            assert psutil.Process(other.pid).name() != "sandbox-relay"
            until(is_warm)
    with kernels.started(holder=True) as kernel:
        assert relay_of(kernel).ppid() == named("sandbox-relays")[0].pid


def test_a_kernel_that_wants_nothing_kept_ready_is_its_own_relay(warm: None) -> None:
    for options in ({"holder": False}, {"holder": True, "cold": True}):
        with kernels.started(**options) as kernel:
            assert text_of(kernel.run("print(6)")[1]) == "6\n"
            assert not named("sandbox-relay")
            assert psutil.Process(kernel.pid).children()  # a launcher of its own


def test_a_template_takes_nobody_who_has_other_packages_or_says_nonsense(warm: None) -> None:
    until(is_warm)
    path = stub.place(stub.identity())
    assert path
    for known, expected in ((stub.identity(), stub.ACCEPTED), ("another", stub.DECLINED)):
        channel = stub.connect(path)
        assert channel
        stub.say(channel, known, ["-f", "/nonexistent"])
        assert channel.recv(1) == expected
        channel.close()
    channel = stub.connect(path)
    assert channel
    channel.send(b"\xff" * 8)
    assert channel.recv(1) == b""
    channel.close()
    assert is_warm()


REHEARSES = """
import os, signal, threading
from sandbox_kernel.kernel import outer, relay, relay_template, stub, zmtp

def state():
    names = sorted(os.listdir("/proc/self/fd"))
    wakes = signal.set_wakeup_fd(-1)
    return names, threading.enumerate(), [signal.getsignal(n) for n in range(1, 30)], wakes

relay_template._import_all()
before = state()
used = (relay.Relay.run, relay.Relay._dispatch, outer.Outer.pump, zmtp.Link._parse,
        relay_template._take_over)
codes = [one.__code__ for one in used]
relay_template._rehearse(stub.identity())
places = [id(one.__code__) for one in used]
print(state() == before, all(map(lambda one, code: one.__code__ is not code, used, codes)),
      max(places) - min(places) < 2 << 20)
"""


@everybody
def test_a_template_goes_the_way_of_its_relays_and_nothing_is_left_of_it(warm: None) -> None:
    """Its relays write to code that lies together, and find done what each would do for itself."""
    done = subprocess.run(
        [sys.executable, "-c", REHEARSES], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "True", "True"]
    assert not done.stderr


@everybody
def test_a_rehearsal_is_not_in_the_users_record(warm: None, tmp_path: Path) -> None:
    """Nothing ran: he would look for a cell that he never wrote."""
    settings = tmp_path / ".config/sandbox-kernel/config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('audit = "content"\n')
    code = REHEARSES + "\nfrom sandbox_kernel import audit; print(audit.level())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True, capture_output=True, text=True,
        env={**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True", "True", "content"]
    assert not list(tmp_path.rglob("*audit*"))


def test_a_template_that_can_not_rehearse_forks_relays_all_the_same(warm: None) -> None:
    code = (
        "from sandbox_kernel.kernel import rehearsal, relay_template, stub\n"
        "def fails(*_): raise OSError('no socket')\n"
        "rehearsal.socket.socketpair = fails\n"
        "relay_template._import_all(); relay_template._rehearse(stub.identity()); print('on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "on\n"


def test_a_template_of_relays_does_without_what_no_start_needs() -> None:
    """All relays have what it imports."""
    code = (
        "import sys; from sandbox_kernel.kernel import relay_template\n"
        "relay_template._import_all(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"traitlets", "dataclasses", "pathlib", "subprocess", "urllib.parse", "ipaddress"}
    heavy |= {"html", "logging", "asyncio", "difflib"}
    assert not heavy & set(done.stdout.split())


def test_the_stub_imports_next_to_nothing() -> None:
    code = "import sys, sandbox_kernel.kernel.stub; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"socket", "signal", "enum", "typing", "json", "subprocess", "threading", "zmq", "re"}
    assert not heavy & set(done.stdout.split())


@everybody
def test_a_kernel_made_in_a_template_is_as_any_other_and_shares_no_identity(warm: None) -> None:
    facts = (
        "s = get_ipython()\n"
        "import os, random, threading\n"
        "print(type(s).__name__, s.parent is s.kernel, s.profile_dir.location, s.starting_dir,"
        " os.environ['TERM'], s.history_manager.session_number, In[:1], _dh)"
    )
    told, sessions = set(), set()
    for options in ({"holder": True}, {"holder": True}, {"holder": False}):
        until(is_warm)
        with kernels.started(**options) as kernel:
            told.add(text_of(kernel.run(facts)[1]))
            code = "print(s.kernel.session.session, random.random())"
            sessions.add(text_of(kernel.run(code)[1]))
            assert "print(s.kernel" in text_of(kernel.run("%history")[1])
    assert len(told) == 1
    assert len(sessions) == 3


@everybody
def test_the_code_that_each_kernel_writes_to_lies_together_in_its_template(warm: None) -> None:
    """Where it doesn't, each kernel has some hundred pages more for itself."""
    places = (
        "import sys\n"
        "from jupyter_client.session import Session\n"
        "from traitlets import HasTraits, TraitType\n"
        "from zmq.sugar.socket import Socket\n"
        "used = (Session.send, Session.serialize, Session.sign, Socket.send_multipart,\n"
        "        TraitType.get, TraitType.set, HasTraits.notify_change)\n"
        "for pooled in (False, True):  # small code may have pools of its own\n"
        "    places = [id(one.__code__) for one in used\n"
        "              if (sys.getsizeof(one.__code__) <= 512) is pooled]\n"
        "    print(max(places) - min(places))"
    )
    with kernels.started(holder=True) as kernel:
        alone, pooled = map(int, text_of(kernel.run(places)[1]).split())
    assert alone < 1 << 19
    assert pooled < 1 << 19


def test_what_configures_ipython_in_one_container_is_heeded(
    warm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "ipython/profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text(
        "c = get_config()\nc.InteractiveShellApp.exec_lines = ['configured = 7']\n"
    )
    for path in (profile.parent, profile):
        path.chmod(0o777)  # IPython takes no folder that it can't write
    monkeypatch.chdir(tmp_path)
    mount = f"{tmp_path}/ipython:/home/sandbox/.ipython"
    for _ in range(2):  # the second one is ready before it is asked for
        with kernels.started(holder=True, mount=[mount]) as kernel:
            assert text_of(kernel.run("print(configured)")[1]) == "7\n"
            until(is_warm)
