"""The keeper of a container that an OCI runtime of others makes: `--runtime runc` and the like.

It takes the place of the thread that makes a container (see `maker`): a fork of the maker, so in
the user namespace of the slot, where it is root and outside of which it is nobody. There it lays
the root file system out as for our own runtime, writes a bundle beside it, and calls the runtime.
The runtime therefore has no right on this machine that a container of ours has not, and needs none:
ids are the slot's, limits those of the control group that each of its processes is started in.

Nothing of this is on disk. Bundle, root and the runtime's own state lie on a tmpfs in the keeper's
mount namespace and are gone with it, whoever is killed. Pid 1 is our program that only holds (see
`linux.first_process`), so the container ends when the launcher does; each run is the runtime's
`exec`.

Requests of the launcher (`do`): run. Answers (`at`): made, failed, forked, exited.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import stat

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import first_process, messages, mounts, processes
from sandbox_kernel.linux.multicall import Calls
from sandbox_kernel.runtime import agent, becoming, payload, rootfs
from sandbox_kernel.runtime.cgroups import files
from sandbox_kernel.runtime.rootfs import told
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# In the keeper's own mount namespace, over a folder that every machine has.
STAGE = rootfs.STAGE
BUNDLE, STATE, MOUNTS, BASE = (f"{STAGE}/{name}" for name in ("bundle", "state", "mounts", "base"))
LOG, PID, PROCESS = (f"{STAGE}/{name}" for name in ("log", "pid", "process.json"))
STAGE_SIZE = "32m"
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "XDG_RUNTIME_DIR": STATE,
}
OPTIONS = {
    "runc": ("--rootless", "true"),
    "crun": ("--cgroup-manager", "disabled"),
    "runsc": ("--ignore-cgroups", "--network", "none", "--file-access", "shared"),
}
"""What it has to be told of where it is: root of a user namespace, and of no control group."""
PROGRAM = first_process.RESULT + 1
"""The number at which pid 1 is executed from."""
VERSION = "1.0.2"
"""Of the specification: nothing newer is in the bundle, and some runtimes refuse newer ones."""
_SIGNS = (
    ("executable file not found", errno.ENOENT),
    ("no such file or directory", errno.ENOENT),
    ("permission denied", errno.EACCES),
)


def serve(
    channel: socket.socket,
    order: Mapping[str, Any],
    *,
    trees: dict[str, int],
    entrances: list[int],
    life: int,
    network: int | None,
    kind: type[Keeper],
) -> None:
    """Make the container and run what is asked for in it, until the launcher lets go."""
    processes.set_name("sandbox-keeper")
    processes.set_command_line("sandbox-keeper")
    # What the runtime starts and leaves is ours to reap: so we know how each run ended.
    processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
    joined = () if network is None else (network,)
    kept = (channel.fileno(), life, *joined, *trees.values(), *entrances)
    processes.close_all_but(kept)
    keeper = kind(channel, order, entrances)
    try:
        pid = keeper.make(trees, life, network)
        keeper.first = processes.pidfd_open(pid)
        said = {"at": "made", "leader": False, "kinds": []}
        messages.send(channel, said, [keeper.base, keeper.first])
    except BaseException as error:
        messages.send(channel, {"at": "failed", **told(error, order["id"])})
        return
    keeper.serve()
    with contextlib.suppress(ProcessLookupError):  # it ends with the launcher by itself
        processes.send_signal(keeper.first, signal.SIGKILL)


class Keeper:
    """What is kept of one container, and how its runtime is called."""

    left_out: tuple[str, ...] = ("user",)
    """Namespaces that the bundle does not ask for: the keeper is in the user namespace already."""

    def __init__(
        self, channel: socket.socket, order: Mapping[str, Any], entrances: list[int]
    ) -> None:
        self._channel = channel
        self.order = order
        self.entrances = entrances
        """Of the container's control group; a run that has none of its own is started in it."""
        self.root = self.base = self.first = -1
        self._runs: dict[int, int] = {}
        """Process -> number of the run."""
        self.reports: dict[int, int] = {}
        """Process -> where it says why it did not start, if it is ours."""
        wall = order["wall"]
        self._name: str = wall["name"]
        self.runtime = [
            wall["program"], *OPTIONS.get(self._name, ()),
            "--root", STATE, "--log", LOG, "--log-format", "json",
        ]  # fmt: skip
        self._children = processes.child_signal_descriptor()

    @property
    def root_path(self) -> str:
        """Where the root file system is in the keeper's mount namespace."""
        return f"{BASE}/root" if self.order.get("layers") else BASE

    # --- making it

    def make(self, trees: Mapping[str, int], life: int, network: int | None) -> int:
        """Lay it out, start pid 1 by the runtime, return its pid. Raises StepFailed, OSError."""
        if network is not None:
            with step("enter", "the network namespace"):
                processes.setns(network, processes.CLONE_NEWNET)
            os.close(network)
        with step("unshare", "a mount namespace"):
            processes.unshare(processes.CLONE_NEWNS)
        with step("make private", "/"):
            mounts.make_private()
        self._set_stage()
        self._begin(trees)
        config = self._bundle(trees, connected=network is not None)
        calls = Calls()
        given = {calls.given(): tree for tree in trees.values()}
        rootfs.put_files(calls, self.root, self.order, dict(zip(trees, given, strict=True)))
        calls.run(given)
        os.umask(0o022)
        os.chdir("/")
        write(f"{BUNDLE}/config.json", config)
        pid = self.start_first(life)
        kept = (self._channel.fileno(), self._children, self.base, self.root, *self.entrances)
        processes.close_all_but(kept)
        return pid

    def start_first(self, life: int) -> int:
        """Start pid 1 by the runtime; returns its pid. Raises StepFailed, OSError."""
        result = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        # Of our own user namespace, in which the runtime has to reach into pid 1 later.
        program = first_process.new_program()
        numbers = {first_process.LIFE: life, first_process.RESULT: result, PROGRAM: program}
        entrances = [os.dup(entrance) for entrance in self.entrances]
        return self.call(["run", "--detach", "--bundle", BUNDLE], numbers, entrances)

    def _set_stage(self) -> None:
        with step("mount tmpfs", "the folder of the bundle"):
            options = (("mode", "0755"), ("size", STAGE_SIZE))
            attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
            stage = mounts.new_filesystem("tmpfs", options, attributes)
            place = os.open(STAGE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mounts.place(stage, place)
            os.close(place)
            os.close(stage)
            for folder in (BUNDLE, STATE, MOUNTS, BASE):
                os.mkdir(folder, 0o700 if folder == STATE else 0o755)

    def _begin(self, trees: Mapping[str, int]) -> None:
        calls = Calls()
        given = {calls.given(): tree for tree in trees.values()}
        names = dict(zip(trees, given, strict=True))
        base, root = rootfs.begin(calls, self.order, names, BASE)
        calls.run(given)
        self.base, self.root = calls.result(base), calls.result(root)

    def _bundle(self, trees: Mapping[str, int], *, connected: bool) -> dict[str, Any]:
        """config.json; and the mounts that it does not name are made.

        What the image has of this machine is in the root already. What the caller mounts lies
        beside it and is bound by the runtime, in the order of the plan.
        """
        order = self.order
        config = order["config"]
        listed = []
        for index, mount in enumerate(config.get("mounts", ())):
            tree = trees.get(f"mount {index}")
            if tree is None:
                listed.append(mount)
                continue
            destination = mount["destination"]
            directory = stat.S_ISDIR(os.fstat(tree).st_mode)
            if not self.binds_beside(mount):
                rootfs.put_now(self.root, destination, tree, directory=directory)
                continue
            place = os.open(MOUNTS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            rootfs.put_now(place, f"/{index}", tree, directory=directory)
            os.close(place)
            listed.append(
                {
                    "destination": destination,
                    "type": "bind",
                    "source": f"{MOUNTS}/{index}",
                    "options": ["rbind", "rprivate"],
                }
            )
        gone = (*self.left_out, "network") if connected else self.left_out
        namespaces = [n for n in config["linux"]["namespaces"] if n["type"] not in gone]
        linux = {name: part for name, part in config["linux"].items() if name != "resources"}
        profile = order["wall"]["seccomp"]
        return {
            **config,
            "ociVersion": VERSION,
            "root": {**config["root"], "path": self.root_path},
            "hostname": order["hostname"],
            "mounts": listed,
            "process": self.holding(),
            "linux": {
                **linux,
                "namespaces": namespaces,
                **({"seccomp": profile} if profile else {}),
            },
        }

    def binds_beside(self, mount: Mapping[str, Any]) -> bool:
        """Whether the runtime makes this mount, and not we: what the caller asked for."""
        return "idmap" in mount["options"]

    def holding(self) -> dict[str, Any]:
        """Pid 1: it needs nothing but two descriptors, and has no right at all."""
        none: dict[str, list[str]] = {
            name: [] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
        }
        return {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [f"/proc/self/fd/{PROGRAM}"],
            "env": [],
            "cwd": "/",
            "capabilities": none,
            "noNewPrivileges": True,
        }

    # --- what runs in it

    def serve(self) -> None:
        """Until the launcher lets go."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._children, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._children in ready:
                os.read(self._children, 4096)
                self._reap()
            if self._channel.fileno() in ready:
                received = messages.receive(self._channel)
                if received is None:
                    return
                message, passed = received
                count = len(message["numbers"])
                numbers = dict(zip(message["numbers"], passed[:count], strict=True))
                self._run(message["run"], message["process"], numbers, passed[count:])

    def _run(
        self,
        number: int,
        process: Mapping[str, Any],
        numbers: Mapping[int, int],
        entrances: list[int],
    ) -> None:
        """Start one run and say so, or why it could not be started. Closes its descriptors."""
        entrances = entrances or [os.dup(entrance) for entrance in self.entrances]
        try:
            pid = self.start_run(process, numbers, entrances)
            pidfd = processes.pidfd_open(pid)
        except Exception as error:  # what is no process for a run is no reason to end the container
            failure = told(error, f"run {number}")
            status = payload.status_of(failure["errno"])
            said = {"at": "exited", "run": number, "failure": failure, "status": status}
            messages.send(self._channel, said)
        else:
            self._runs[pid] = number
            messages.send(self._channel, {"at": "forked", "run": number}, (pidfd,))
            os.close(pidfd)
        for descriptor in numbers.values():
            os.close(descriptor)

    def start_run(
        self, process: Mapping[str, Any], numbers: Mapping[int, int], entrances: list[int]
    ) -> int:
        """Start a run; returns a process that is a child of ours. Closes `entrances`.

        Raises StepFailed, OSError.
        """
        write(PROCESS, self.process(process))
        return self.call(["exec", "--detach", "--process", PROCESS], numbers, entrances)

    def process(self, process: Mapping[str, Any]) -> dict[str, Any]:
        """The process in the words of the specification, with numbers for names."""
        environment = dict(entry.partition("=")[::2] for entry in process.get("env", ()))
        uid, gid, groups, home = self._identity(process.get("user", {}), "HOME" not in environment)
        environment.setdefault("HOME", home)
        held = process.get("capabilities", {})
        if uid and process.get("rootOnly"):
            held = {name: [] for name in held}
        return {
            "terminal": False,
            "user": {"uid": uid, "gid": gid, "additionalGids": groups},
            "args": process["args"],
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": process.get("cwd") or "/",
            "capabilities": held,
            "rlimits": process.get("rlimits", []),
            "noNewPrivileges": True,
        }

    def _identity(
        self, user: Mapping[str, Any], needs_home: bool
    ) -> tuple[int, int, list[int], str]:
        """As `becoming.identity`, asked by a fork whose root is the container's."""
        said = self.in_root(lambda: list(becoming.identity(user, needs_home=needs_home)))
        uid, gid, groups, home = said
        return uid, gid, groups, home

    def in_root(self, ask: Callable[[], Any]) -> Any:
        """What a fork finds whose root is the container's. Raises StepFailed."""
        answer, end = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            try:
                os.fchdir(self.root)
                os.chroot(".")
                said: dict[str, Any] = {"found": ask()}
            except BaseException as error:
                said = {"failed": told(error, self.order["id"])}
            try:
                os.write(end, json.dumps(said).encode())
            finally:
                os._exit(0)
        os.close(end)
        with open(answer, "rb") as file:
            heard = json.loads(file.read() or b"{}")
        os.waitpid(child, 0)
        if "found" not in heard:
            raise StepFailed(**heard.get("failed", told(OSError("a helper ended"), "look")))
        return heard["found"]

    def call(self, words: list[str], numbers: Mapping[int, int], entrances: list[int]) -> int:
        """Call the runtime to start a process with these descriptors; returns its pid.

        Closes `entrances`. Raises StepFailed with what the runtime said.
        """
        last = max((*numbers, 2))
        open(LOG, "w").close()
        if os.path.exists(PID):
            os.unlink(PID)
        argv = [
            *self.runtime, *words, "--pid-file", PID, *self.descriptors_words(last),
            self.order["id"],
        ]  # fmt: skip
        child = os.fork()
        if child == 0:
            try:
                files.enter(entrances)
                null = os.open("/dev/null", os.O_RDWR)
                becoming.arrange({n: numbers.get(n, null) for n in range(last + 1)}, None)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                os.execve(argv[0], argv, ENVIRONMENT)
            finally:
                os._exit(payload.NOT_EXECUTABLE)
        for entrance in entrances:
            os.close(entrance)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            why = said_last() or f"it ended with status {status}"
            number = next((number for sign, number in _SIGNS if sign in why.lower()), 0)
            raise StepFailed(self._name, words[0], why, number)
        with open(PID, "rb") as file:
            return int(file.read())

    def descriptors_words(self, last: int) -> list[str]:
        """How the runtime is told to hand descriptors on, up to this one."""
        return ["--preserve-fds", str(last - 2)]

    def _reap(self) -> None:
        while True:
            try:
                pid, state = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._runs:
                said = {"at": "exited", "run": self._runs.pop(pid)}
                messages.send(
                    self._channel, {**said, **agent.how_it_ended(state, self.reports.pop(pid, -1))}
                )


def write(path: str, data: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(data, file)


def said_last() -> str:
    """The last error in the runtime's log, in its own words."""
    said = ""
    with open(LOG, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
                said = str(entry.get("msg", ""))
    return said[:1000]
