"""Faults of the machine that no other file brings about: see tests/faults.py.

strace(1) does what can't be had otherwise: that a call fails, or that a process ends at one call
and at no other.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import injected
import kernels
import psutil
import pytest
from commands import COMMAND, command, detached, output_of
from made_images import layer, put, small

import sandbox_kernel
from sandbox_kernel import container, errors, policy, settings
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.image import archives
from sandbox_kernel.image.store import Store, locks
from sandbox_kernel.linux import mounts
from sandbox_kernel.runtime import client, state

SECONDS = injected.SECONDS
PIDFD_GETFD = 438  # include/uapi/asm-generic/unistd.h

everybody = pytest.mark.everybody


def answer_or_error() -> object:
    """What becomes of a cell: right, or one line that is ours."""
    try:
        found = sandbox_kernel.run("print(6 * 7)").check().stdout
    except errors.SandboxError as error:
        assert "Traceback" not in str(error)
        return error
    assert found == "42\n"
    return found


# -- 1, 23: at numbered calls of the launcher ------------------------------------------------------


@everybody
@pytest.mark.fault(1)
def test_a_launcher_killed_at_a_numbered_call_leaves_nothing() -> None:
    killed = 0
    for number in (1, 6, 15, 30, 50, 75):
        launcher = client.shared()
        assert launcher.about
        with injected.traced(launcher.pid, "all", f"signal=SIGKILL:when={number}"):
            killed += isinstance(answer_or_error(), errors.SandboxError)
        assert sandbox_kernel.run("6 * 7").check().text == "42"
    assert killed >= 3


@pytest.mark.root  # takes descriptors of another process, and traces one
@pytest.mark.fault(1)
@pytest.mark.parametrize("alone", ["the signal of its parent's death", "the end of its channel"])
def test_each_of_the_ways_by_which_a_container_ends_with_its_launcher_does_what_it_can_alone(
    alone: str,
) -> None:
    """The signal ends the maker. Pid 1 has none: the thread that starts it is soon over, and the
    signal would come then. Should somebody else hold the other end of its pipe, the next start
    ends it.
    """
    client.end_shared()
    code = (
        "import sandbox_kernel, sys\n"
        "from sandbox_kernel.runtime import client\n"
        "sandbox = sandbox_kernel.Sandbox()\n"
        "print(client.shared().pid, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    argv = [sys.executable, "-c", code]
    if alone.startswith("the end"):  # each prctl(2) of a maker that asks for the signal is skipped
        inject = f"inject=prctl:retval=0:when={number_of_pdeathsig()}"
        argv = [injected.STRACE, "-f", "-qq", "-o", "/dev/null", "-e", inject, *argv]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout
        launcher = psutil.Process(int(program.stdout.readline()))
        below = launcher.children(recursive=True)
        assert "sandbox-maker" in {each.name() for each in below}
        kept = [] if alone.startswith("the end") else descriptors_of(launcher.pid)
        try:
            launcher.kill()
            alive = psutil.wait_procs(below, timeout=5)[1]
            assert {each.name() for each in alive} <= ({"sandbox-init"} if kept else set())
            assert sandbox_kernel.run("6 * 7").check().text == "42"
            assert psutil.wait_procs(alive, timeout=SECONDS)[1] == []
        finally:
            for descriptor in kept:
                os.close(descriptor)
            program.kill()


def descriptors_of(pid: int) -> list[int]:
    """Copies of all of a process's pipes and sockets, so that no end of them is heard then."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    kept = [pidfd]
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}").startswith(("pipe:", "socket:")):
            copy = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
            assert copy >= 0
            kept.append(copy)
    return kept


def number_of_pdeathsig() -> int:
    """Which prctl(2) of a maker it is."""
    with tempfile.NamedTemporaryFile("r") as log:
        code = "import sandbox_kernel; sandbox_kernel.Sandbox().close()"
        injected.run([sys.executable, "-c", code], "prctl", log=log.name)
        done: dict[str, int] = {}
        for line in log.read().splitlines():
            process = line.split()[0]
            if "prctl(" in line:
                done[process] = done.get(process, 0) + 1
            if "PR_SET_PDEATHSIG" in line:
                return done[process]
    raise AssertionError("no maker asked for it")


@everybody
@pytest.mark.fault(23)
def test_when_the_host_gives_no_more_it_is_one_error_and_nothing_is_left() -> None:
    failed = 0
    for calls, error in (
        ("clone,clone3,fork,vfork", "EAGAIN"),
        ("openat,openat2", "EMFILE"),
        ("mkdir,mkdirat", "ENOSPC"),
        ("mount,fsopen,fsmount,move_mount,open_tree", "ENOMEM"),
        ("socketpair,pipe2,memfd_create", "EMFILE"),
        ("write,pwrite64", "ENOMEM"),
    ):
        for number in (1, 3):
            launcher = client.shared()
            launcher.stop_pool()
            with injected.traced(launcher.pid, calls, f"error={error}:when={number}"):
                failed += isinstance(answer_or_error(), errors.SandboxError)
            assert sandbox_kernel.run("6 * 7").check().text == "42", (calls, number)
    assert failed >= 4


@pytest.mark.fault(23)
@pytest.mark.parametrize("left", range(12))
def test_a_launcher_without_descriptors_says_what_helps_and_goes_on(left: int) -> None:
    launcher = client.shared()
    launcher.stop_pool()
    process = psutil.Process(launcher.pid)
    before, most = process.rlimit(psutil.RLIMIT_NOFILE), process.num_fds() + left
    process.rlimit(psutil.RLIMIT_NOFILE, (most, before[1]))
    try:
        with pytest.raises(errors.SandboxError) as failed:
            Container.create(policy.plan("program"))
    finally:
        for each in (process, *process.children(recursive=True)):  # it made some meanwhile
            each.rlimit(psutil.RLIMIT_NOFILE, before)
    assert "ulimit -n" in str(failed.value)
    assert sandbox_kernel.run("6 * 7").check().text == "42"
    assert client.shared() is launcher


@pytest.mark.fault(23)
def test_a_launcher_keeps_descriptors_for_what_must_not_fail() -> None:
    """Held until it refuses, containers are still limited, listed, timed and ended."""
    code = (
        "import json, resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))\n"
        "from sandbox_kernel import errors, policy\n"
        "from sandbox_kernel.container import Container, ProcessSpec\n"
        "from sandbox_kernel.runtime import client\n"
        "plan = policy.plan('program')\n"
        "slow = ProcessSpec(argv=('/bin/sleep', '600'), timeout=3.0)\n"
        "timed = Container.create(plan, process=slow)\n"
        "held, refused = [], []\n"
        "while len(refused) < 3:\n"
        "    try: held.append(Container.create(plan))\n"
        "    except errors.StepFailed as error: refused.append(str(error))\n"
        "def count(channel): return len(ids & {row['id'] for row in channel.request('list', {})"
        "['containers']})\n"
        "ids = {one.id for one in held}\n"
        "folders = client.control_folders()\n"
        "folder, heard = [one for one in folders if client.shared().name in one][0], []\n"
        "many = [client.open_control(folder) for _ in range(100)]\n"
        "for one in many:\n"
        "    try: heard.append(count(one))\n"
        "    except errors.LauncherGone: pass\n"
        "for one in many: one.close()\n"
        "heard.append(count(client.open_control(folder)))\n"
        "held[0].set_limits(memory='64m')\n"
        "ended = timed.process.wait()\n"
        "for one in held[:3]: one.remove()\n"
        "held[:3] = [Container.create(plan) for _ in range(3)]\n"
        "alive = [one.limits()['memory'] for one in held]\n"
        "print(json.dumps([len(held), refused, heard, ended.reason, len(alive)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    held, refused, heard, ended, alive = json.loads(done.stdout)
    assert held == alive >= 8
    assert set(heard) == {held}
    assert 1 < len(heard) <= 100  # some were turned away, which is said to them
    assert ended == "timed-out"
    assert all("160 at most" in each and "ulimit -n" in each for each in refused)


# -- 3: who carries messages -----------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.fault(3)
def test_a_cell_whose_agent_is_killed_before_it_began_is_told_so() -> None:
    with kernels.cells_started(mode="carry") as kernel:
        kernel.run("x = 1")
        relay = psutil.Process(kernel.pid)
        below = relay.children(recursive=True)
        agents = [each for each in below if each.name() == "sandbox-agent"]
        for agent in agents:
            agent.suspend()
        sent = kernel.client.execute("x")
        deadline = time.monotonic() + SECONDS
        while relay.children(recursive=True) == below:  # the fork that waits for its place
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        agents[0].kill()
        begin = time.monotonic()
        assert kernel.finish(sent)[0]["content"]["ename"] == "StateLost"
        assert time.monotonic() - begin < SECONDS
        assert kernel.run("x = 2")[0]["content"]["status"] == "ok"


# -- 4: stopped, and going on ----------------------------------------------------------------------


@everybody
@pytest.mark.fault(4)
def test_a_stopped_payload_is_ended_at_its_time_and_by_a_stop() -> None:
    code = "import os, signal; print('on', flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    found = sandbox_kernel.run(code, timeout="1s")
    assert found.error is not None
    assert found.error.name == "TimedOut"
    plan = policy.plan(settings.PROGRAM, stop_timeout="500ms")
    argv = ("python", "-c", code)
    with Container.create(plan, process=ProcessSpec(argv=argv, logged=True)) as made:
        begin = time.monotonic()
        made.stop()
        made.wait()
        assert time.monotonic() - begin < SECONDS


@everybody
@pytest.mark.fault(4)
def test_after_a_stop_launcher_and_relay_do_what_was_asked_and_what_is_due() -> None:
    with kernels.started() as kernel:
        relay = psutil.Process(kernel.pid)
        for process in (relay, relay.children()[0]):
            sent = kernel.client.execute("print('first')")
            process.suspend()
            later = kernel.client.execute("print('second')")
            time.sleep(0.2)
            process.resume()
            assert kernels.text_of(kernel.finish(sent)[1]) == "first\n"
            assert kernels.text_of(kernel.finish(later)[1]) == "second\n"
    launcher = psutil.Process(client.shared().pid)
    with sandbox_kernel.Sandbox(timeout="500ms") as sandbox:
        launcher.suspend()
        timer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {launcher.pid}"])
        found = sandbox.run("import time; time.sleep(60)")
        timer.wait()
    assert found.error is not None
    assert found.error.name == "TimedOut"


# -- 6, 7, 16: the store ---------------------------------------------------------------------------


@pytest.fixture
def archive(store: Store, tmp_path: Path) -> Path:
    """An image in a file; the store has nothing of it."""
    path = tmp_path / "app.tar"
    with open(path, "wb") as file:
        archives.save(store, [(small(store, "app:1"), "app:1")], "oci", file)
    store.prune(named=True)
    return path


@pytest.mark.root
@pytest.mark.fault(6)
def test_without_inodes_it_is_said_and_some_are_enough_to_go_on(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    remount = 32
    mounts.mount("small", str(place), "tmpfs", 0, "nr_inodes=16,size=16m,mode=0700")
    try:
        monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(place))
        there = Store.open()
        said = command("load", "-i", str(archive))
        assert said.returncode == 125
        assert "No space left on device" in said.stderr
        assert len(said.stderr.splitlines()) == 1
        assert there.images() == []
        assert there.check() == []
        mounts.mount("small", str(place), "tmpfs", remount, "nr_inodes=500,size=16m,mode=0700")
        assert command("load", "-i", str(archive)).returncode == 0
        assert output_of("run", "app:1") == "it runs\n"
        assert there.check() == []
    finally:
        mounts.detach(str(place))


@everybody
@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("calls", "error", "passes"),
    [
        ("fsync", "EIO", False),
        ("rename,renameat,renameat2", "EIO", False),
        ("write", "EIO", False),
        ("write,fsync", "EINTR", True),
    ],
)
def test_what_was_not_written_is_never_said_to_be(
    store: Store, archive: Path, calls: str, error: str, passes: bool
) -> None:
    words = []
    for name in blobs_in(archive):
        words += ["-P", f"{store.root}/partial/sha256-{name}"]
    done = subprocess.run(
        [
            injected.STRACE, "-f", "-qq", "-o", "/dev/null", *words, "-e", f"trace={calls}",
            "-e", f"inject={calls}:error={error}:when=1", *COMMAND, "load", "-i", str(archive),
        ],
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    if passes:
        assert done.returncode == 0, done.stderr
        assert len(store.images()) == 1
    else:
        assert done.returncode == 125, done.stdout
        assert len(done.stderr.splitlines()) == 1
        assert "Input/output error" in done.stderr
        assert store.images() == []
    assert store.check() == []
    assert len(archives.load(store, str(archive))) == 1


def blobs_in(archive: Path) -> list[str]:
    """The digests of the blobs in a file, in hexadecimal."""
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    return [name.rpartition("/")[2] for name in names if name.startswith("blobs/sha256/")]


@everybody
@pytest.mark.fault(16)
def test_a_lock_is_free_when_its_holder_is_killed_or_its_file_is_removed(store: Store) -> None:
    code = (
        "import sys, time\n"
        "from sandbox_kernel.image.store import Store\n"
        "with Store.open().adding():\n"
        "    print('held', flush=True); sys.stdin.readline()\n"
    )
    content = Path(store.places.lock("content"))
    for end in ("killed", "removed"):
        holder = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == b"held\n"
        assert locks.try_hold(str(content)) is None
        if end == "killed":
            holder.kill()
            holder.wait()
        else:
            content.unlink()
        with locks.hold(str(content)):
            pass
        holder.communicate(b"\n")
    digest = put(store, "app:1", [layer({"note": b"there\n"})]).manifest.layers[0].digest
    data = store.read(digest)
    store.prune(named=True)
    with store.writer(digest, len(data)) as writer:
        writer.write(data)
        for path in content.parent.iterdir():
            path.unlink()
        writer.commit()
    assert store.has(digest)


# -- 8: folders ------------------------------------------------------------------------------------

RUNTIME = "/run/sandbox-kernel"
FOLDERS = {
    "the runtime folder is read-only": (
        f"mount -t tmpfs -o ro,mode=700 none {RUNTIME}",
        "Read-only file system",
    ),
    "the runtime folder is somebody else's": (
        f"mount -t tmpfs -o uid=12345,mode=700 none {RUNTIME}",
        "it is not a folder of yours with mode 0700",
    ),
    "the runtime folder is open to others": (
        f"mount -t tmpfs -o mode=755 none {RUNTIME}",
        "it is not a folder of yours with mode 0700",
    ),
    "the runtime folder allows no programs": (
        f"mount -t tmpfs -o noexec,mode=700 none {RUNTIME}",
        "",
    ),
    "the store is read-only": (
        "mount --bind $STORE $STORE && mount -o remount,bind,ro $STORE",
        "Read-only file system",
    ),
    "the store is open to others": (
        "mount -t tmpfs -o mode=755 none $STORE",
        "others may look into it",
    ),
    "the store allows no programs": (
        "mount -t tmpfs -o noexec,mode=700 none $STORE",
        "",
    ),
    "the store tells no kinds of files": (
        "truncate -s 64m $DISK && mke2fs -q -O ^filetype $DISK && "
        "mount -t ext4 -o loop $DISK $STORE && rmdir $STORE/lost+found && chmod 700 $STORE",
        "",
    ),
    "the store knows no other ids": (
        "mount -t ramfs -o mode=700 none $STORE",
        "`layer 0`: its file system can't show files under other ids: have it on ext4",
    ),
}


@pytest.mark.root
@pytest.mark.fault(8)
@pytest.mark.parametrize(("prepare", "says"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folder_that_will_not_do_is_named_or_does(
    store: Store, archive: Path, prepare: str, says: str
) -> None:
    words = " ".join(COMMAND)
    script = f"{prepare} && exec {words} run host echo it runs"
    if "$STORE" in prepare:
        script = f"{prepare} && {words} load -i {archive} && exec {words} run app:1"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={**os.environ, "STORE": store.root, "DISK": f"{archive.parent}/disk"},
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    if says:
        assert done.returncode in (125, 126), done
        assert len(done.stderr.splitlines()) == 1
        assert says in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "it runs"


@everybody
@pytest.mark.fault(16)
def test_a_launcher_whose_socket_is_removed_makes_it_anew_and_without_its_lock_it_ends() -> None:
    with detached("sleep", "600") as name:
        folder = Path(container.match(name).folder)
        (folder / "control.sock").unlink()
        deadline = time.monotonic() + SECONDS
        while not (folder / "control.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert name in output_of("ps", "--quiet")
    made = output_of("run", "--detach", "host", "sleep", "600").strip()
    folder = Path(container.match(made).folder)
    (folder / "lock").unlink()
    deadline = time.monotonic() + SECONDS
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert output_of("run", "host", "echo", "whole") == "whole\n"


@everybody
@pytest.mark.fault(16)
def test_a_holder_of_networks_whose_socket_is_removed_makes_it_anew() -> None:
    plan = policy.plan(settings.PROGRAM, network="class")
    with Container.create(plan):
        (socket,) = Path(state.runtime_folder(), "networks").glob("*/socket")
        socket.unlink()
        deadline = time.monotonic() + SECONDS
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        reached = subprocess.run(
            [*COMMAND, "run", "--network", "class", "host", "echo", "there"],
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        assert reached.stdout == "there\n", reached.stderr


# -- 15: two of one notebook -----------------------------------------------------------------------


@everybody
@pytest.mark.fault(15)
def test_two_kernels_of_one_notebook_share_nothing_and_each_outlives_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook that is opened twice, or started again before its kernel has ended."""
    monkeypatch.setenv(settings.NOTEBOOK_VARIABLE, str(tmp_path / "one.ipynb"))
    with kernels.started() as first, kernels.started() as second:
        for number, kernel in enumerate((first, second)):
            kernel.run(f"x = {number}; open('note', 'w').write(str(x))")
        sent = [
            kernel.client.execute("print(x, open('note').read())") for kernel in (first, second)
        ]
        told = [kernels.text_of(k.finish(s)[1]) for k, s in zip((first, second), sent, strict=True)]
        assert told == ["0 0\n", "1 1\n"]
        psutil.Process(first.pid).kill()
        assert kernels.text_of(second.run("print(x)")[1]) == "1\n"
        first.manager.restart_kernel(now=True)
        first.client.wait_for_ready(timeout=SECONDS)
        assert kernels.text_of(second.run("print(x)")[1]) == "1\n"


# -- 10, 11, 19, 20: what others on this machine do ------------------------------------------------

UNSHARE_PIDS = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
REUSED = """
import os, signal, subprocess
import sandbox_kernel
from sandbox_kernel.runtime import client, state
with open('/proc/sys/kernel/ns_last_pid', 'w') as last:
    sandbox = sandbox_kernel.Sandbox()
    launcher = client.shared().pid
    os.kill(launcher, signal.SIGKILL)
    client._shared[1]._process.wait()
    strangers = []
    try:
        while True:
            os.waitpid(-1, 0)  # all that the launcher had come to pid 1 here, and are reaped by it
    except ChildProcessError:
        pass
    for number in (launcher, sandbox.container.pid):
        os.pwrite(last.fileno(), str(number - 1).encode(), 0)
        strangers.append(subprocess.Popen(['sleep', '600']))
    print([each.pid for each in strangers] == [launcher, sandbox.container.pid])
print(sandbox_kernel.run('6 * 7').check().text)
client.end_shared()
print([each.poll() for each in strangers])
for each in strangers:
    each.kill()
    each.wait()
"""


@pytest.mark.root
@pytest.mark.fault(10)
def test_a_stranger_with_the_number_of_a_dead_process_is_left_alone() -> None:
    done = subprocess.run(
        [*UNSHARE_PIDS, sys.executable, "-c", REUSED],
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.stdout.split("\n")[:3] == ["True", "42", "[None, None]"], done.stderr


EATS = """
import pathlib, sys, time
import sandbox_kernel
from sandbox_kernel import errors
from sandbox_kernel.runtime import client, state
group = pathlib.Path(sys.argv[1])
def ended(end):
    with sandbox_kernel.Sandbox() as sandbox:
        launcher = client.shared()._process
        end(launcher)
        launcher.wait()
        (group / "memory.limit_in_bytes").write_text("-1")
        try:
            print(sandbox.run("6 * 7"))
        except errors.LauncherGone as error:
            print("for want of memory" in str(error))
    print(sandbox_kernel.run("6 * 7").check().text)
def eat(launcher):
    pathlib.Path(f"/proc/{launcher.pid}/oom_score_adj").write_text("1000")
    used = int((group / "memory.usage_in_bytes").read_text())
    (group / "memory.limit_in_bytes").write_text(str(used + (8 << 20)))
    kept = []
    while "oom_kill 0" in (group / "memory.oom_control").read_text():  # or it chooses once more
        kept.append(bytearray(1 << 20))
        time.sleep(0.05)
ended(eat)
ended(lambda launcher: launcher.kill())
"""


@pytest.mark.root
@pytest.mark.fault(11)
def test_a_launcher_that_the_kernel_kills_for_memory_is_told_from_one_that_somebody_kills() -> None:
    with small_group() as group:
        (group / "memory.limit_in_bytes").write_text("-1")
        begin = f"echo $$ > {group}/cgroup.procs && exec "
        done = subprocess.run(
            ["sh", "-c", f'{begin} "$@"', "sh", sys.executable, "-c", EATS, group],
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
    assert done.stdout.split() == ["True", "42", "False", "42"], done.stderr


@pytest.mark.root
@pytest.mark.fault(11)
def test_a_relay_that_the_kernel_kills_for_memory_takes_all_of_its_with_it() -> None:
    with kernels.started() as kernel, small_group() as group:
        below = psutil.Process(kernel.pid).children(recursive=True)
        (group / "cgroup.procs").write_text(str(kernel.pid))
        kernel.client.execute("print('x' * 10_000_000)")
        psutil.wait_procs([psutil.Process(kernel.pid)], timeout=SECONDS)
        assert not kernel.manager.is_alive()
        assert psutil.wait_procs(below, timeout=SECONDS)[1] == []


@contextlib.contextmanager
def small_group() -> Iterator[Path]:
    """A group in which there is no memory to be had."""
    group = Path(f"/sys/fs/cgroup/memory/sandbox-kernel/fault-{os.getpid()}")
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("4096")
    try:
        yield group
    finally:
        deadline = time.monotonic() + SECONDS
        while group.exists():
            try:
                (group / "memory.force_empty").write_text("0")
                group.rmdir()
            except OSError:  # what the kernel ended there is not gone yet
                assert time.monotonic() < deadline, (group / "cgroup.procs").read_text()
                time.sleep(0.02)


@everybody
@pytest.mark.groups
@pytest.mark.fault(19)
def test_a_container_that_somebody_else_froze_can_be_ended() -> None:
    with sandbox_kernel.Sandbox(stop_timeout="500ms") as sandbox:
        frozen = Path(sandbox.container.cgroup_paths()["freezer"], "freezer.state")
        frozen.write_text("FROZEN")
        begin = time.monotonic()
    assert time.monotonic() - begin < SECONDS
    assert not frozen.exists()


@pytest.mark.root
@pytest.mark.fault(19)
def test_a_container_that_somebody_moved_out_of_its_groups_which_then_went_can_be_ended() -> None:
    """As a manager of services may do it: the memory group first, then that of ending it."""
    sandbox_kernel.run("pass").check()
    with sandbox_kernel.Sandbox(stop_timeout="500ms") as sandbox:
        sandbox.run("import subprocess; subprocess.Popen(['sleep', '600'])", check=True)
        groups = {Path(path) for path in sandbox.container.cgroup_paths().values()}
        inside = psutil.Process(sandbox.container.pid)
        for group in groups:
            top = next(path for path in group.parents if path.name == "sandbox-kernel").parent
            for folder in (*group.glob("*/"), group):
                for pid in (folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        (top / "cgroup.procs").write_text(pid)
                with contextlib.suppress(OSError):
                    folder.rmdir()
        assert not any(group.exists() for group in groups)
        begin = time.monotonic()
    assert time.monotonic() - begin < SECONDS
    assert psutil.wait_procs([inside], timeout=SECONDS)[1] == []
    assert sandbox_kernel.run("6 * 7").check().text == "42"


@pytest.mark.root
@pytest.mark.fault(20)
def test_without_user_namespaces_the_cause_and_what_mends_it_are_said() -> None:
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*words, *COMMAND, "run", "host", "true"],
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 125
    assert "user.max_user_namespaces" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- 26: signals -----------------------------------------------------------------------------------


@everybody
@pytest.mark.fault(26)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_with_the_usual_status_and_leaves_nothing(
    number: signal.Signals,
) -> None:
    for times in (1, 2) if number == signal.SIGINT else (1,):
        with the_command() as running:
            for _ in range(times):
                running.send_signal(number)
            _, said = running.communicate(timeout=SECONDS)
            assert running.returncode in (128 + number, -number), said
            assert "Traceback" not in said


@everybody
@pytest.mark.fault(26)
def test_a_signal_while_a_container_is_made_leaves_nothing() -> None:
    """At several calls of the command's own process."""
    for calls, nth in (("sendmsg", 1), ("sendmsg", 2), ("recvmsg", 2)):
        traced_command = [injected.STRACE, "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
        traced_command += ["-e", f"inject={calls}:signal=SIGINT:when={nth}"]
        done = subprocess.run(
            [*traced_command, *COMMAND, "run", "host", "sleep", "600"],
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode in (130, -signal.SIGINT), done
        assert "Traceback" not in done.stderr


@pytest.mark.fault(26)
def test_an_installation_that_is_ended_at_any_step_leaves_a_kernel_whole_or_none(
    tmp_path: Path,
) -> None:
    """At each call that changes a folder, by Ctrl-C and by SIGKILL in turn; and a removal."""
    calls = "mkdir,rename,rmdir,unlinkat"
    jupyter, log = tmp_path / "share/jupyter", tmp_path / "log"
    kernel = jupyter / "kernels/one"
    install = ("install", "--name", "one", "--prefix", str(tmp_path))
    output_of(*install)
    for words in (install, ("uninstall", "one", "--prefix", str(tmp_path))):
        assert injected.run([*COMMAND, *words], calls, log=log, follow=False).returncode == 0
        lines = log.read_text().splitlines()
        first = next(number for number, line in enumerate(lines) if str(tmp_path) in line)
        done = [line.partition("(")[0] for line in lines if "(" in line]
        seen = set()
        for number in range(first, len(done)):
            if not kernel.exists() and words is not install:
                output_of(*install)
            when = done[: number + 1].count(done[number])
            how = f"signal={('INT', 'KILL')[number % 2]}:when={when}"
            injected.run([*COMMAND, *words], done[number], how, follow=False)
            seen.add(kernel.exists())
            if kernel.exists():
                assert json.loads((kernel / "kernel.json").read_text())["argv"]
                assert len(list(kernel.iterdir())) == 4
        assert seen == {True, False} or words is install
    output_of(*install)
    assert [path.name for path in jupyter.iterdir()] == ["kernels"]
    assert kernel.exists()


@contextlib.contextmanager
def the_command() -> Iterator[subprocess.Popen[str]]:
    """The command, with a program in a container that says it is there and then does nothing."""
    running = subprocess.Popen(
        [*COMMAND, "run", "host", "sh", "-c", "echo on; exec sleep 600"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert running.stdout
        assert running.stdout.readline() == "on\n"
        yield running
    finally:
        running.kill()
        running.communicate()


@everybody
@pytest.mark.fault(23)
def test_a_command_that_gets_no_thread_says_so_in_one_line(tmp_path: Path, store: Store) -> None:
    small(store, "app:1")
    (tmp_path / "Containerfile").write_text('FROM app:1\nRUN ["/bin/says"]\n')
    tracer = [injected.STRACE, "-qq", "-o", "/dev/null", "-e", "trace=clone,clone3"]
    done = subprocess.run(
        [*tracer, "-e", "inject=clone,clone3:error=EAGAIN:when=1+", *COMMAND, "build", tmp_path],
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 125
    assert "no more processes are to be had" in done.stderr
    assert "Traceback" not in done.stderr
