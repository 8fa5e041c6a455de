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

*With `strict`* the child enters a Landlock domain too. It has to do so by itself, when it is in the
container, as the domain is of what lies below that root; and none can be laid around the template
before, since a domain of another root forbids all renaming between folders. It is the one wall that
the kernel does not tell the launcher of. A hostile Python of an image could leave it out; it keeps
the runs of a container apart, which all run that Python, and all other walls are checked.

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
with its name, and imported by each cell that needs it. The kernel that is asked for one cell, so
that the template knows what its children write to, is a fork that ends with the answer, or after
ten seconds; what it says are places in a list of the template's own functions.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from collections import deque

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import messages, process_facts, processes, reading, waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox_kernel.runtime.held import Held
    from sandbox_kernel.runtime.slots import Nest, Slot

LEAST = 2
"""How many are ready of a kind that somebody wants: one to take, while the other is made."""
CONTROL = 4
"""The template's end of its socket, as `inside/template.py` has it."""
BIND_NOW = "LD_BIND_NOW=1"
"""ld.so(8): symbols are bound once, and not in each child that is the first to call one. It is for
the template alone, which gets the environment of its children in its first message."""
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_PACKET = 1 << 16


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
        self,
        key: str,
        family: str,
        held: Held,
        control: socket.socket,
        theirs: socket.socket,
        program: int,
        modules: list[str],
    ) -> None:
        self.key = key
        self.family = family
        self.held = held
        self.control = control
        self.theirs = theirs
        self.program = program
        """What it gets when its nest is there: its end of `control`, and a descriptor."""
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
        self.environment: list[str] = []
        """What its children have without being told."""
        self.message: dict[str, Any] = {}
        """What of the first request its start depends on."""

    @property
    def can_make(self) -> bool:
        """Whether containers can be made and entered now."""
        return self.running and self.nest is not None and not self.over


class Demand:
    """How many containers of one kind were wanted lately, and how to make one more."""

    __slots__ = ("hurry", "making", "order", "used", "wanted")

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.wanted = LEAST
        self.making = 0
        self.hurry = False
        """Whether one was wanted again at once."""
        self.used = time.monotonic()


def open_forker(template: Template, slot: Slot) -> socket.socket:
    """Have the template fork who enters the containers of a slot. Raises OSError."""
    ours, theirs = messages.pair()
    with theirs:
        try:
            messages.send(template.control, {}, [theirs.fileno(), slot.user])
        except BaseException:
            ours.close()
            raise
    slot.forker = ours
    return ours


def ask_for_child(
    held: Held, forker: socket.socket, child: socket.socket, *, rehearses: bool
) -> None:
    """Have a child forked into `held`, that listens to `child`. Raises OSError.

    One that `rehearses` takes longer until it is there, and less from then on.
    """
    entrances = held.take_entrances()
    # The forker is in the user namespace, and gives the pid namespace to its child.
    kinds = [kind for kind in held.namespaces if kind not in ("user", "pid")]
    message = {
        "container": held.id,
        "namespaces": [processes.FLAG_OF_NAMESPACE[kind] for kind in kinds],
        "rehearses": rehearses,
        "landlock": held.order["config"]["process"].get("landlock"),
    }
    namespaces = [held.namespaces[kind] for kind in ("pid", *kinds)]
    try:
        messages.send(forker, message, [child.fileno(), *namespaces, *entrances])
    finally:
        for descriptor in entrances:
            os.close(descriptor)


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
    message = messages.parsed(body)
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return message, pid


def check_child(held: Held, nest: Held, pid: int, *, filters: int) -> int:
    """That a process is in the container as it has to be; its number in the nest.

    Raises StepFailed, which names what differs. All of it is read from the kernel.
    """
    facts = process_facts.look(pid, held.namespaces)
    _check_status(status := _parsed(facts.status), filters)
    for kind in facts.differing:
        raise _differs(f"its {kind} namespace is another")
    _check_groups(held, facts.groups)
    _check_descriptors(pid, facts)
    _check_memory(nest, pid)
    return int(status["NSpid"].split()[-2])


def own_filters() -> int:
    """How many seccomp filters this process has already, of whoever started it."""
    found = _parsed(reading.whole(f"/proc/{os.getpid()}/status"))
    return int(found.get("Seccomp_filters", 0))


def _check_status(found: dict[str, str], filters: int) -> None:
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
        if found.get(name) != value:
            raise _differs(f"{name} is {found.get(name)}, not {value}")


_NOTHING = "0" * 16


def _differs(how: str) -> StepFailed:
    return StepFailed("check", "the process that a template has forked", how)


def _parsed(status: bytes) -> dict[str, str]:
    """What counts of /proc/PID/status, proc(5)."""
    text = status.decode("utf-8", "replace")
    facts = {}
    for name in _FACTS:
        # The name of the program is the first line, and has no line break in it.
        begin = text.find(f"\n{name}:\t")
        if begin >= 0:
            begin += len(name) + 3
            facts[name] = text[begin : text.find("\n", begin)]
    return facts


_FACTS = (
    "NoNewPrivs", "Threads", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp",
    "Seccomp_filters", "NSpid",
)  # fmt: skip


def _check_groups(held: Held, found: bytes) -> None:
    """It is in the groups of the container, which are those of its pid 1 (cgroups(7))."""
    wanted = reading.whole(f"/proc/{held.pid}/cgroup")
    if found != wanted:
        other = b", ".join(sorted({*found.splitlines()} - {*wanted.splitlines()}))
        raise _differs(f"it is in another control group: {other.decode('utf-8', 'replace')}")


def _check_descriptors(pid: int, facts: process_facts.Facts) -> None:
    """Nothing is open but /dev/null three times, and the socket to us."""
    for number, device in enumerate(facts.devices):
        if device != os.makedev(1, 3):
            raise _differs(f"its descriptor {number} is not /dev/null")
    others = [os.readlink(f"/proc/{pid}/fd/{number}") for number in facts.open if number > 2]
    if len(others) != 1 or not others[0].startswith("socket:"):
        raise _differs(f"open in it are {', '.join(sorted(others))}")


def _check_memory(nest: Held, pid: int) -> None:
    """No memory is shared, so that nothing that is written in it is seen elsewhere.

    A file of the image that is mapped to be read, such as the C library's cache of converters, is
    no such memory: it lies on a read-only mount.
    """
    writable = os.fstat(nest.writable).st_dev
    for one in process_facts.shared_memory(pid):
        named = one.path.endswith("(deleted)") or one.path.startswith("/dev/")
        if one.writable or named or one.device == writable or not one.path:
            raise _differs(f"memory of {one.path or 'no file'} is shared")


def give(ready: Ready, order: dict[str, Any], descriptors: list[int]) -> None:
    """Tell the child in a ready container what to run. Raises OSError if it is gone."""
    assert ready.channel is not None
    messages.send(ready.channel, order, descriptors)
    ready.channel.close()
    ready.channel = None


def listening(channel: socket.socket) -> bool:
    """Whether the child in a ready container is still there."""
    return not waiting.readable(channel)
