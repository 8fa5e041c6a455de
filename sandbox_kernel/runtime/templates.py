"""Templates in the launcher: interpreters that fork children into containers, and ready containers.

A template is `inside/template.py`, run by the image's Python in a container of its own, the *nest*.
The containers for its children are made inside the nest: their user namespace is a child of the
nest's, made by the template's user id, and so is their pid namespace. By the owner rule of
user_namespaces(7) a child of the template may therefore join them without holding any capability
before. A container is *ready* when such a child sits in it and waits; a cell then costs a message.

The threats, and what stands against each
-----------------------------------------

*A cell against its template.* The cell is a fork of it, so it may know all that the template
knows: modules of the image, and this file's counterpart. There is no secret in it. The cell lives
in another user, pid, mount, network and IPC namespace; the pid namespace is below the template's,
so the template has no number there and can't be named, signalled or traced. The socket to the
launcher is closed in the child before it joins.

*A cell against its siblings.* They share pages of memory that no process can write: each write
makes a copy. Shared are also the layout of the address space and the seed of `hash`; who wants
neither says `--cold`. `random`, `numpy.random`, `uuid`, `tempfile` and OpenSSL get new seeds.
Nothing else is common: namespaces, groups, ids and files are the container's own.

*A cell against the launcher.* It has no descriptor that leads there. The socket over which its
program came is closed before the program runs, and the launcher reads from it only until then.

*A hostile image in the template.* Its modules run in the nest when they are imported: with no
capability, no network, no file of the caller's, under limits and the filter, as any cell. What it
could try more is to let a child skip a step: not to enter the group, to keep a descriptor, to stay
without a filter. So the launcher believes no word of a child. Before anything of the caller's goes
to it, the launcher reads from the kernel which process speaks (SCM_CREDENTIALS), that it is in the
container's own groups and namespaces, that it holds no capability and can't gain one, that its
filters are there, that it has one thread, its declared descriptors alone and no memory that is
shared with the template. A child that differs in one point is ended, and so is its template.
The namespaces of a container stay reachable for its template, though; an image whose own Python is
hostile could follow a child into its container. It gains what it had: the image's Python runs
every cell of that container anyway. It could carry data from one cell to a later one of the same
user, image and policy. Templates are therefore never shared between users, images or policies, and
for an image that is not trusted there is `--cold`.

*Threads in a template* would hold locks for ever in a fork. A module that starts one is refused,
with its name, and imported by each cell that needs it.
"""

from __future__ import annotations

import array
import base64
import json
import os
import select
import signal
import socket
import struct
import time
from collections import deque

from sandbox_kernel.errors import HostLacks, StepFailed
from sandbox_kernel.linux import messages, processes
from sandbox_kernel.runtime import identities
from sandbox_kernel.runtime.held import NEST_SLOTS
from sandbox_kernel.runtime.init import be_init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from sandbox_kernel.runtime.held import Held

LEAST = 2
"""How many are ready of a kind that somebody wants: one to take, while the other is made."""
CONTROL = 4
"""The template's end of its socket, as `inside/template.py` has it."""
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_PACKET = 1 << 16


class Nest:
    """The namespaces of a template's container, and the maker of others in them.

    The maker is a fork of the launcher that joined the nest's pid namespace, as who makes one below
    it must be in it. It holds the launcher's rights and is never dumpable; the template sees that
    it is there, and no more. Each container costs it two forks, while the launcher goes on.

    A user namespace belongs to a slot, with the ids of the slot, and serves one container after
    another: it holds nothing that a container without capabilities could change.
    """

    def __init__(self, user: int, pid: int, ranges: list[int] | None, ids: int) -> None:
        self.ranges = ranges
        """First host id of each slot; None where all ids are the same (an ordinary user)."""
        self._user = os.dup(user)
        self._ids = ids
        self._free = list(range(1, NEST_SLOTS))
        self._users: dict[int, int] = {}
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        with theirs:
            helper = os.fork()
            if helper == 0:
                _become_maker(theirs, pid)
        self.channel = ours
        """What the maker says: `made`, with a pidfd, or `failed`, of a container."""
        try:
            received = messages.receive(ours)
            os.waitpid(helper, 0)
            if received is None or "maker" not in received[0]:
                why = received[0].get("why") if received else "it ended at once"
                raise StepFailed("start", "the maker of a nest", str(why))
            self.maker = os.pidfd_open(received[0]["maker"])
        except BaseException:
            ours.close()
            os.close(self._user)
            raise

    def take(self) -> int:
        """A slot for one more container. Raises HostLacks when all are taken."""
        if not self._free:
            raise HostLacks(f"make one more container in the nest: it has {NEST_SLOTS - 1} already")
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Its container is gone."""
        self._free.append(slot)

    def first(self, slot: int) -> int | None:
        """The first host id of a slot."""
        return None if self.ranges is None else self.ranges[slot]

    def close(self) -> None:
        """The nest is over: the maker ends, and is reaped, or the nest's pid 1 could not end."""
        self.channel.close()
        os.waitid(os.P_PIDFD, self.maker, os.WEXITED)
        os.close(self.maker)
        for descriptor in (self._user, *self._users.values()):
            os.close(descriptor)

    def make(
        self, container: str, order: dict[str, Any], slot: int, channel: socket.socket
    ) -> None:
        """Ask for pid 1 of a container, which has this channel. Raises OSError, StepFailed."""
        user = self.user_namespace(slot)
        memory = os.memfd_create("order", os.MFD_CLOEXEC)
        try:
            program = base64.b64encode(order["program"]).decode()
            os.write(memory, json.dumps({**order, "program": program}).encode())
            messages.send(self.channel, {"make": container}, [channel.fileno(), user, memory])
        finally:
            os.close(memory)

    def user_namespace(self, slot: int) -> int:
        """A child of the nest's user namespace, with the ids of the slot.

        Made outside the nest's pid namespace: a process with no ids yet has to be dumpable, and the
        template may not reach one that is.
        """
        if slot not in self._users:
            ours, theirs = socket.socketpair(
                socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
            )
            with ours:
                helper = os.fork()
                if helper == 0:
                    self._make_user_namespace(theirs, slot)
                theirs.close()
                received = messages.receive(ours)
                os.waitpid(helper, 0)
            if received is None or not received[1]:
                why = received[0].get("why") if received else "a helper ended"
                raise StepFailed("make", "a user namespace in the nest", str(why))
            self._users[slot] = received[1][0]
        return self._users[slot]

    def _make_user_namespace(self, channel: socket.socket, slot: int) -> NoReturn:
        try:
            processes.setns(self._user, processes.CLONE_NEWUSER)
            _become_root()
            # The maps of a process that is not dumpable belong to root of the machine.
            processes.prctl(processes.PR_SET_DUMPABLE, 1)
            pid, pidfd = processes.clone(processes.CLONE_NEWUSER)
            if pid == 0:
                while True:
                    signal.pause()
            try:
                firsts = None if self.ranges is None else (slot * identities.RANGE,)
                identities.write_maps(pid, firsts, self._ids)
                made = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
                messages.send(channel, {}, [made])
            finally:
                processes.send_signal(pidfd, signal.SIGKILL)
                os.waitpid(pid, 0)
        except BaseException as error:
            messages.send(channel, {"why": repr(error)})
        os._exit(0)


def _become_maker(channel: socket.socket, pid_namespace: int) -> NoReturn:
    """In a fork of the launcher: a sibling of it in the nest's pid namespace is the maker."""
    try:
        processes.setns(pid_namespace, processes.CLONE_NEWPID)
        processes.prctl(processes.PR_SET_DUMPABLE, 0)
        maker, _ = processes.clone_sibling(0)
        if maker == 0:
            _be_maker(channel)
        messages.send(channel, {"maker": maker})
    except BaseException as error:
        messages.send(channel, {"why": repr(error)})
    os._exit(0)


def _be_maker(channel: socket.socket) -> NoReturn:
    """Make what is asked for, until the launcher lets go."""
    try:
        processes.end_with_parent()
        processes.close_all_but((channel.fileno(),))
        processes.set_name("sandbox-maker")
        processes.set_command_line("sandbox-maker")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children of ours end by themselves
        while received := messages.receive(channel):
            said, descriptors = received
            try:
                helper = os.fork()
            except OSError as error:
                messages.send(channel, {"failed": said["make"], "why": str(error)})
                helper = -1
            if helper == 0:
                _make_pid_1(channel, said["make"], *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
    finally:
        os._exit(0)


def _make_pid_1(
    channel: socket.socket, container: str, theirs: int, user: int, memory: int
) -> NoReturn:
    """Join the container's user namespace; pid 1 is a sibling of ours in all the others."""
    try:
        order = json.loads(os.pread(memory, os.fstat(memory).st_size, 0))
        order["program"] = base64.b64decode(order["program"])
        processes.setns(user, processes.CLONE_NEWUSER)
        _become_root()
        processes.prctl(processes.PR_SET_DUMPABLE, 0)
        pid, pidfd = processes.clone_sibling(order["flags"] & ~processes.CLONE_NEWUSER)
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            be_init(socket.socket(fileno=theirs), order)
        messages.send(channel, {"made": container}, [pidfd])
    except BaseException as error:
        messages.send(channel, {"failed": container, "why": repr(error)})
    os._exit(0)


def _become_root() -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


class Ready:
    """A container in a nest on its way: made, entered, checked; then it waits, or has a caller."""

    __slots__ = ("base_usage", "channel", "claim", "held", "pid", "pidfd", "recipe", "template")

    def __init__(self, template: Template, held: Held, recipe: str) -> None:
        self.template = template
        self.held = held
        self.recipe = recipe
        self.channel: socket.socket | None = None
        """Ours to the child that waits in it; None before the container is made."""
        self.pid = -1
        """The child as the nest numbers it."""
        self.pidfd = -1
        self.claim: Callable[[], None] | None = None
        """What to do as soon as it waits: somebody came before it was ready."""


class Template:
    """One interpreter with its nest, the containers in it, and what it was made for."""

    def __init__(
        self, key: str, family: str, held: Held, control: socket.socket, modules: list[str]
    ) -> None:
        self.key = key
        self.family = family
        self.held = held
        self.control = control
        self.modules = modules
        self.nest: Nest | None = None
        self.running = False
        """Whether it has imported everything and forks."""
        self.over = False
        self.ready: dict[str, deque[Ready]] = {}
        self.on_the_way: dict[str, Ready] = {}
        """By container: made or entered just now."""
        self.inside: dict[int, Ready] = {}
        """By the number of the child in the nest."""
        self.containers: set[str] = set()
        self.used = time.monotonic()
        self.demand: dict[str, Demand] = {}
        self.message: dict[str, Any] = {}
        """What of the first request its start depends on."""

    @property
    def can_make(self) -> bool:
        """Whether containers can be made and entered now."""
        return self.running and self.nest is not None and not self.over


class Demand:
    """How many containers of one kind were wanted lately, and how to make one more."""

    __slots__ = ("making", "order", "used", "wanted")

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.wanted = LEAST
        self.making = 0
        self.used = time.monotonic()


def fork_request(held: Held, child: socket.socket) -> tuple[dict[str, Any], list[int], list[int]]:
    """What a template is told to fork a child into `held`: message, descriptors, those to close."""
    entrances = held.group.entrances()
    message = {
        "container": held.id,
        "namespaces": [(kind, processes.FLAG_OF_NAMESPACE[kind]) for kind in held.namespaces],
    }
    given = [child.fileno(), *held.namespaces.values(), *entrances]
    return message, given, entrances


def hear_child(channel: socket.socket) -> tuple[dict[str, Any], int] | None:
    """What the child in a container says, and its number here, which the kernel vouches for.

    None at the end. Raises ValueError for what is no message, OSError.
    """
    space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * 8)
    body, control, _, _ = channel.recvmsg(_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    pid = -1
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            for number in numbers:
                os.close(number)
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
    if not body:
        return None
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return message, pid


def check_child(held: Held, nest: Held, pid: int, *, filters: int) -> int:
    """That a process is in the container as it has to be; its number in the nest.

    Raises StepFailed, which names what differs. All of it is read from the kernel.
    """
    facts = _status(pid)
    wanted = {
        "NoNewPrivs": "1",
        "Threads": "1",
        "CapInh": _NOTHING,
        "CapPrm": _NOTHING,
        "CapEff": _NOTHING,
        "CapBnd": _NOTHING,
        "CapAmb": _NOTHING,
    }
    if filters:
        wanted |= {"Seccomp": "2", "Seccomp_filters": str(filters)}
    for name, value in wanted.items():
        if facts.get(name) != value:
            raise _differs(f"{name} is {facts.get(name)}, not {value}")
    for kind, descriptor in held.namespaces.items():
        here, there = os.fstat(descriptor), os.stat(f"/proc/{pid}/ns/{FILE_OF[kind]}")
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise _differs(f"its {kind} namespace is another")
    _check_groups(held, pid)
    _check_descriptors(pid)
    _check_memory(nest, pid)
    return int(facts["NSpid"].split()[-2])


_NOTHING = "0" * 16
FILE_OF = {"mount": "mnt", "network": "net"} | {
    kind: kind for kind in ("user", "pid", "ipc", "uts", "cgroup", "time")
}


def _differs(how: str) -> StepFailed:
    return StepFailed("check", "the process that a template has forked", how)


def _status(pid: int) -> dict[str, str]:
    """/proc/PID/status, proc(5)."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _check_groups(held: Held, pid: int) -> None:
    """It is in the groups of the container, which are those of its pid 1 (cgroups(7))."""
    found, wanted = _groups(pid), _groups(held.pid)
    if found != wanted:
        other = b", ".join(sorted(found - wanted)).decode("utf-8", "replace")
        raise _differs(f"it is in another control group: {other}")


def _groups(pid: int) -> set[bytes]:
    with open(f"/proc/{pid}/cgroup", "rb") as file:
        return set(file.read().splitlines())


def _check_descriptors(pid: int) -> None:
    """Nothing is open but /dev/null three times, and the socket to us."""
    others = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.stat(f"/proc/{pid}/fd/{name}")
        if int(name) > 2:
            others.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        elif target.st_rdev != os.makedev(1, 3):
            raise _differs(f"its descriptor {name} is not /dev/null")
    if len(others) != 1 or not others[0].startswith("socket:"):
        raise _differs(f"open in it are {', '.join(sorted(others))}")


def _check_memory(nest: Held, pid: int) -> None:
    """No memory is shared, so that nothing that is written in it is seen elsewhere.

    A file of the image that is mapped to be read, such as the C library's cache of converters, is
    no such memory: it lies on a read-only mount.
    """
    writable = os.fstat(nest.writable).st_dev
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(maxsplit=5)
            mode, device, path = fields[1], fields[3], fields[5].rstrip() if fields[5:] else ""
            if mode[3] != "s":
                continue
            major, minor = (int(part, 16) for part in device.split(":"))
            reachable = "w" in mode or path.endswith("(deleted)") or path.startswith("/dev/")
            if reachable or os.makedev(major, minor) == writable or not path:
                raise _differs(f"memory of {path or 'no file'} is shared")


def give(ready: Ready, order: dict[str, Any], descriptors: list[int]) -> None:
    """Tell the child in a ready container what to run. Raises OSError if it is gone."""
    assert ready.channel is not None
    messages.send(ready.channel, order, descriptors)
    ready.channel.close()
    ready.channel = None


def listening(channel: socket.socket) -> bool:
    """Whether the child in a ready container is still there."""
    return not select.select([channel], [], [], 0)[0]
