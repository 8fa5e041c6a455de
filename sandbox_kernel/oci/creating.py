"""Making a container by its bundle, up to where its program waits to be started.

The order, and who does it:

    here    state folder, control group with its limits, all that comes from the host opened
            (by an ordinary user's child, when it is root of its user namespace)
    child   born in its namespaces, enters its group, waits until its ids are mapped
    here    its ids are mapped; the state is `creating`
    child   root of its user namespace; mounts and devices, waits until it is known
    here    hooks prestart, createRuntime
    child   hooks createContainer; kernel parameters, pivot_root, masks, terminal
    here    the state is `created`
    child   listens for the start; hooks startContainer; identity, filter, exec

Where there are no such hooks, nobody waits for them. With `run` nobody listens for a start, and the
child goes on by itself: the state is `creating` until the program runs.
"""

from __future__ import annotations

import _signal as signal  # `signal` is the same with enumerations around it, slow to import
import _socket as socket  # all that is needed here of `socket`, which is slow to import
import os
import sys
import time

from sandbox_kernel.linux import interfaces, messages, mounts, processes
from sandbox_kernel.linux import libc as c
from sandbox_kernel.oci import births, hooks, mounting, payload, state
from sandbox_kernel.oci.faults import StepFailed, doing, said
from sandbox_kernel.oci.groups import Group
from sandbox_kernel.oci.mounting import Root
from sandbox_kernel.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn


HOOKS_BETWEEN = ("prestart", "createRuntime")
_accept4 = c.libc["accept4"]
_accept4.argtypes = (c.c_int, c.c_void_p, c.c_void_p, c.c_int)
_accept4.restype = c.c_int
_setdomainname = c.libc["setdomainname"]
_setdomainname.argtypes = (c.c_char_p, c.c_ulong)
_setdomainname.restype = c.c_int
STAGE = "/tmp"  # noqa: S108 - mounted over in a private namespace, never written to


class Wish:
    """What a caller of `create` and `run` may say beside the bundle."""

    __slots__ = ("bundle", "console_socket", "name", "pid_file", "preserved", "root")

    def __init__(
        self,
        *,
        root: str,
        name: str,
        bundle: str,
        console_socket: str | None = None,
        pid_file: str | None = None,
        preserved: int = 0,
    ) -> None:
        self.root = root
        self.name = name
        self.bundle = os.path.abspath(bundle)
        self.console_socket = console_socket
        self.pid_file = pid_file
        self.preserved = preserved


def create(wish: Wish, config: Mapping[str, Any], *, started: bool = False) -> int:
    """Make it, and start it; returns the pid of its first process, a child of ours.

    Raises SandboxError.
    """
    folder = state.Folder.make(wish.root, wish.name)
    making = _Making(wish, {**config, "linux": config.get("linux") or {}}, folder)
    try:
        channel = making.make(listens=not started)
        if not started:
            making.created()
        if started:
            making.started(channel)
        channel.close()
    except BaseException:
        making.undo()
        raise
    folder.close()
    return making.pid


class _Making:
    """A container on its way, and what has to be undone when it gets no further."""

    def __init__(self, wish: Wish, config: Mapping[str, Any], folder: state.Folder) -> None:
        self._wish = wish
        self._config = config
        self._folder = folder
        self._group: Group | None = None
        self._known: dict[str, Any] = {}
        self.pid = 0

    def make(self, *, listens: bool) -> socket.socket:
        """Up to where its program waits; returns the channel to it. Raises SandboxError."""
        config, linux = self._config, self._config["linux"]
        filter_ = payload.filter_of(linux)
        joined, made = births.namespaces(config)
        has_user = "user" in joined or "user" in made
        _check_devices(config, has_user=has_user)
        resources = linux.get("resources") or {}
        group = self._group = Group.make(linux.get("cgroupsPath"), self._wish.name, resources)
        place = group.place() if group.unified and not births.has_helper(config) else None
        # Who has no rights over our mount namespace can copy none of its mounts: the child can,
        # as root of its user namespace, in the copy of all that is its mount namespace.
        inside = has_user and "mount" in made and os.geteuid() != 0
        trees = {} if inside else mounting.sources(config, self._wish.bundle, new_user=has_user)
        channel, theirs = messages.bare_pair()
        listening = _listen(self._folder) if listens else None
        path = self._wish.console_socket
        birth = _Birth(
            self._wish, self._folder, config, (channel, theirs), listening, trees, filter_,
            connected(path) if path else None, group, place,
        )  # fmt: skip
        self.pid = births.born(config, birth.child, place)
        birth.close_entrances()
        theirs.close()
        if listening is not None:
            listening.close()
        payload.set_oom_score(self.pid, config.get("process") or {})
        if "user" in made:
            births.write_maps(self.pid, config)
            _go(channel, "mapped")
        self._known = known = self._what_is_known(group)
        # Before it can get any further: from here on `delete` finds all that there is of it.
        self._folder.write(known)
        if self._wish.pid_file:
            write_pid(self._wish.pid_file, self.pid)
        shown = spoken(known, "creating")
        _go(channel, "known", state=shown)
        if hooks.given(config, *HOOKS_BETWEEN):
            hear(channel, "mounted")
            for kind in HOOKS_BETWEEN:
                hooks.run(config, kind, shown)
            _go(channel, "enter")
        hear(channel, "ready")
        return channel

    def created(self) -> None:
        """Now others may start it."""
        self._folder.finish()

    def started(self, channel: socket.socket) -> None:
        """Wait until its program is executed. Raises StepFailed."""
        wait_executed(channel, self._config, spoken(self._known, "creating"), self.pid)
        self._folder.finish()
        hooks.run(self._config, "poststart", spoken(self._known, "running"))

    def _what_is_known(self, group: Group) -> dict[str, Any]:
        config, bundle = self._config, self._wish.bundle
        return {
            "ociVersion": config["ociVersion"],
            "id": self._wish.name,
            "pid": self.pid,
            "started": state.started(self.pid),
            "bundle": bundle,
            "rootfs": os.path.join(bundle, config["root"]["path"]),
            "annotations": config.get("annotations") or {},
            "created": time.time(),
            "groups": group.directories,
            "owner": os.geteuid(),
        }

    def undo(self) -> None:
        """Nothing of it stays."""
        if self.pid:
            end(self.pid)
        if self._group is not None:
            self._group.kill()
            self._group.remove()
        if self._known:
            _run_last_hooks(self._config, self._known)
        self._folder.remove()


def wait_executed(
    channel: socket.socket, config: Mapping[str, Any], shown: Mapping[str, Any], pid: int
) -> None:
    """Until a process executed its program, by which its end is closed. Raises StepFailed.

    The listener of its system calls goes to who answers, with the state of the container.
    """
    received = heard(channel)
    if received is not None and received[0].get("at") == "asks":
        from sandbox_kernel.oci import listeners

        (listener,) = received[1]
        try:
            listeners.hand_over(config["linux"]["seccomp"], shown, pid, listener)
        finally:
            os.close(listener)
        try:
            channel.send(payload.TAKEN)
        except OSError:
            pass  # it has ended, which is heard next
        received = heard(channel)
    if received is not None:
        failed = received[0]
        raise StepFailed(failed["step"], failed["subject"], failed["why"], failed["errno"])


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it ended by itself


def _run_last_hooks(config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    try:
        hooks.run(config, "poststop", spoken(known, "stopped"))
    except StepFailed:
        pass  # what made it end is what is told


def spoken(known: Mapping[str, Any], status: str) -> dict[str, Any]:
    """The state of a container as the specification has it."""
    told = {name: known[name] for name in ("ociVersion", "id", "bundle", "annotations")}
    told["status"] = status
    if status != "stopped":
        told["pid"] = known["pid"]
    return told


def write_pid(path: str, pid: int) -> None:
    """A pid file, whole or not there. Raises OSError."""
    temporary = f"{os.path.dirname(os.path.abspath(path))}/.{os.path.basename(path)}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(str(pid))
    os.rename(temporary, path)


def _check_devices(config: Mapping[str, Any], *, has_user: bool) -> None:
    """On cgroup v2 a list of devices would be a program of the kernel, which is not written here.

    Who can make no device node needs no list: nothing but what the root has can be opened.
    """
    rules = (config["linux"].get("resources") or {}).get("devices")
    bounding = ((config.get("process") or {}).get("capabilities") or {}).get("bounding") or ()
    from sandbox_kernel.oci.groups import hierarchies

    if rules and not has_user and "CAP_MKNOD" in bounding and not hierarchies()[0]:
        raise StepFailed(
            "enforce", "linux.resources.devices",
            "cgroup v2 has no file for it: leave CAP_MKNOD out, or use a user namespace",
        )  # fmt: skip


def _listen(folder: state.Folder) -> socket.socket:
    """Where the first process hears that it is to start; by a short name, as sun_path is short."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(folder.path)
        listening.bind(state.SOCKET)
        listening.listen(1)
    finally:
        os.fchdir(here)
        os.close(here)
    return listening


def accepted(listening: socket.socket) -> socket.socket:
    """Who connects next. Raises OSError."""
    descriptor = c.check(_accept4(listening.fileno(), None, None, socket.SOCK_CLOEXEC))
    return socket.socket(fileno=descriptor)


def connect(folder: state.Folder) -> socket.socket:
    """To the first process, which waits. Raises OSError."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(folder.path)
        channel.connect(state.SOCKET)
    finally:
        os.fchdir(here)
        os.close(here)
    return channel


def connected(path: str) -> socket.socket:
    """To the caller's console socket. Raises StepFailed."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with doing("connect to the console socket", path):
        channel.connect(path)
    return channel


def _go(channel: socket.socket, word: str, **more: Any) -> None:
    try:
        messages.send(channel, {"do": word, **more})
    except OSError:
        hear(channel, "")  # why it ended, if it could say that


def heard(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """What a process says next. Who ends with a word of ours unread resets the channel, which hides
    once what it said before (unix(7)). Raises OSError."""
    try:
        return messages.receive(channel)
    except ConnectionResetError:
        return messages.receive(channel)


def hear(channel: socket.socket, wanted: str) -> None:
    """Wait until a first process is that far. Raises StepFailed."""
    received = heard(channel)
    if received is None:
        raise StepFailed("make", "the container", "its first process ended before it was ready")
    if received[0].get("at") != wanted:
        failed = received[0]
        raise StepFailed(failed["step"], failed["subject"], failed["why"], failed["errno"])


class _Birth:
    """What the child does until its program is executed."""

    def __init__(
        self,
        wish: Wish,
        folder: state.Folder,
        config: Mapping[str, Any],
        channels: tuple[socket.socket, socket.socket],
        listening: socket.socket | None,
        trees: Mapping[str, int],
        filter_: payload.Filter | None,
        console: socket.socket | None,
        group: Group,
        place: int | None,
    ) -> None:
        self._wish = wish
        self._folder = folder
        self._config = config
        self._outer, self._channel = channels
        self._console = console
        self._state: dict[str, Any] = {}
        self._groups = group.directories
        self._entrances = group.entrances() if place is None else [place]
        self._is_born_in = place is not None
        self._listening = listening
        self._trees = trees
        self._filter = filter_
        self._proc: int | None = None
        self._may_set_groups = True

    def close_entrances(self) -> None:
        """Of the group: nobody else comes in by them."""
        for descriptor in self._entrances:
            os.close(descriptor)

    def child(self) -> NoReturn:
        """In the new process. Never returns."""
        channel = self._channel
        self._outer.close()
        try:
            self._folder.close()  # the lock is not ours, though a fork has it too
            with doing("enter", "its cgroup"):
                if self._is_born_in:
                    self.close_entrances()
                else:
                    files.enter(self._entrances)
            self._make(channel)
            messages.send(channel, {"at": "ready"})
            if self._listening is not None:
                channel.close()
            kept = [*range(3 + self._wish.preserved), (self._listening or channel).fileno()]
            processes.close_all_but((*kept, *([] if self._proc is None else [self._proc])))
            if self._listening is not None:
                channel = self._caller(self._listening)
            self._start(channel)
        except BaseException as error:
            try:
                messages.send(channel, {"at": "failed", **told(error)})
            except OSError:
                pass  # nobody hears why
        finally:
            os._exit(1)

    def _make(self, channel: socket.socket) -> None:
        config = self._config
        joined, made = births.namespaces(config)
        if "user" in made:
            self._expect(channel, "mapped")
        os.setsid()
        os.umask(0)  # the modes of devices and mount points are meant as they are written
        if "user" in made or "user" in joined:
            with doing("become", "root of the user namespace"):
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
        if "cgroup" in made:
            with doing("make", "a cgroup namespace"):
                processes.unshare(processes.CLONE_NEWCGROUP)
        if config.get("hostname"):
            with doing("set hostname", config["hostname"]):
                socket.sethostname(config["hostname"])
        if config.get("domainname"):
            with doing("set domainname", config["domainname"]):
                name = str(config["domainname"]).encode()
                c.check(_setdomainname(name, len(name)))
        if "network" in made:
            with doing("bring up", "lo"):
                interfaces.switch_on_loopback()
        own_mounts = "mount" in made or "mount" in joined
        trees = self._trees or mounting.sources(config, self._wish.bundle, new_user=True)
        root = Root(config, self._place_root(own_mounts, trees), trees)
        root.refuse_links()
        root.make_mounts(self._groups)
        root.make_devices()
        self._state = self._expect(channel, "known")["state"]
        if hooks.given(config, *HOOKS_BETWEEN):
            messages.send(channel, {"at": "mounted"})
            self._expect(channel, "enter")
        hooks.run(config, "createContainer", self._state)
        self._use_proc()
        sys.meta_path.clear()  # an import from here on would run the container's code
        root.enter(has_mount_namespace=own_mounts)
        process = config.get("process")
        # Its place is made while the root can be written, and covered when all masks are there.
        has_terminal = process and process.get("terminal")
        console = root.console() if has_terminal and own_mounts else None
        root.close_places()
        if process and has_terminal:
            slave = payload.open_terminal(process, self._console)
            if console is not None:
                mounting.bind_console(slave, console)
            os.close(slave)
        if process:
            _change_to(process)
            payload.check(process)

    def _use_proc(self) -> None:
        """Write and read what has to be in /proc, or hold it for later, before there is one of the
        container's. Kernel parameters are those of the namespaces that we are in."""
        joined, made = births.namespaces(self._config)
        if "user" in made or "user" in joined:
            self._may_set_groups = payload.may_set_groups()
        parameters = self._config["linux"].get("sysctl") or {}
        if not parameters and not payload.writes_about_us(self._config.get("process") or {}):
            return
        from sandbox_kernel.linux import procfs

        with doing("open", "/proc"):
            self._proc = procfs.best()
        for name, value in parameters.items():
            path = name.replace(".", "/") if "/" not in name else name
            with doing(f"set sysctl {name} to", str(value)):
                procfs.write(self._proc, f"sys/{path}", str(value))

    def _place_root(self, own_mounts: bool, trees: Mapping[str, int]) -> int:
        """The root file system as a mount of its own; returns its descriptor.

        It stands where hooks look for it, unless root of a user namespace can't walk to there.
        """
        path = os.path.join(self._wish.bundle, self._config["root"]["path"])
        if not own_mounts:
            with doing("open root file system", path):
                return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with doing("make private", "/"):
            mounts.make_private()
        with doing("mount", path):
            try:
                place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except PermissionError:
                place = os.open(STAGE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mounts.place(trees["root"], place)
            os.close(place)
        return trees["root"]

    def _expect(self, channel: socket.socket, word: str) -> dict[str, Any]:
        received = messages.receive(channel)
        if received is None or received[0].get("do") != word:
            os._exit(1)  # who makes us has ended
        return received[0]

    def _caller(self, listening: socket.socket) -> socket.socket:
        """Wait until somebody starts the container; the channel to him closes itself at exec."""
        channel = accepted(listening)
        listening.close()
        self._expect(channel, "start")
        return channel

    def _start(self, channel: socket.socket) -> NoReturn:
        process = self._config.get("process")
        if not process:
            raise StepFailed("start", self._wish.name, "config.json has no `process`", 22)
        hooks.run(self._config, "startContainer", {**self._state, "status": "created"})
        payload.become(
            process, self._config["linux"], self._filter,
            preserved=self._wish.preserved, keep=channel.fileno(), proc=self._proc,
            sets_groups=self._may_set_groups,
        )  # fmt: skip


def _change_to(process: Mapping[str, Any]) -> None:
    """The working directory is made when it is missing, as other runtimes do."""
    path = process.get("cwd") or "/"
    if not os.path.lexists(path):
        with doing("make directory", path):
            os.makedirs(path, exist_ok=True)


def told(error: BaseException) -> dict[str, Any]:
    if isinstance(error, StepFailed):
        return {name: getattr(error, name) for name in ("step", "subject", "why", "errno")}
    return {"step": "make", "subject": "the container", "why": said(error), "errno": 0}
