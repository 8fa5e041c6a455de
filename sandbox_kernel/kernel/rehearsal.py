"""The way of a relay until its kernel has answered the first cell, gone by the template of relays.

What the template has of it stands at `template_memory.lay_together`. The relay is the real one, on
sockets that have no name in any folder. Container and kernel are a few lines here that answer as
the warm holder and an ipykernel do, in the thread that is also the front end: no container is made,
nobody's code runs and no file of the user is read.
"""

from __future__ import annotations

import gc
import os
import secrets
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import zmq

from sandbox_kernel import errors
from sandbox_kernel.container import networking
from sandbox_kernel.linux import messages
from sandbox_kernel.runtime import client
from sandbox_kernel.runtime.cgroups import mounted

from . import signals, stub
from .connection import Connection
from .contents import encode
from .relay import Relay
from .start import Inside, plan
from .voice import PROTOCOL
from .wire import EMPTY, Message, Reader, Signer, frames
from .zmtp import Link

if TYPE_CHECKING:
    from sandbox_kernel.policy import ContainerPlan

SECONDS = 10.0
"""For each answer: what takes longer has failed."""
CODE = "print('first')"


def in_place() -> None:
    """Becomes a relay in this process, which is what it was afterwards: no thread is left, no
    descriptor, no handler of a signal. Called in the main thread. One that hangs ends.

    Raises HostLacks where there is no holder, or a kernel would not be its.
    """
    before = _descriptors()
    signal.alarm(int(SECONDS))
    inside, planned = _inside()
    ours, face = socket.socketpair()
    handlers = {number: signal.getsignal(number) for number in signals.CAUGHT}
    inside.plan = planned
    relay = Relay(inside.where, inside, face)
    start = threading.Thread(target=inside.start, name="start", daemon=True)
    talk = threading.Thread(target=_talk, args=(inside, ours, lambda: None), daemon=True)
    try:
        for thread in (start, talk):
            thread.start()
        relay.run()
        for thread in (start, talk):
            thread.join()
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    signal.alarm(0)
    ours.close()
    inside.close()
    del relay, inside, face
    gc.collect()
    for left in _descriptors() - before:
        os.close(left)


def in_a_fork(
    known: str,
    become: Callable[[socket.socket, str, Inside], NoReturn],
    told: Callable[[], None],
) -> NoReturn:
    """Becomes a relay for a stub that says what this process would. Calls `told` when the first
    cell is answered, and ends.

    `become`: is told by a stub of this identity whose relay it is, and becomes it.
    """
    inside, _ = _inside()
    ours, face = socket.socketpair()
    file = os.memfd_create("connection", os.MFD_CLOEXEC)
    os.write(file, msgspec.json.encode(inside.where))
    stub.say(ours, known, ["-f", f"/proc/self/fd/{file}"])

    def end() -> None:
        told()
        os._exit(0)

    threading.Thread(target=_talk, args=(inside, ours, end), daemon=True).start()
    become(face, known, inside)


def _descriptors() -> set[int]:
    names = os.listdir("/proc/self/fd")  # one of them is that of the folder
    return {int(name) for name in names if os.path.exists(f"/proc/self/fd/{name}")}


def _inside() -> tuple[_Inside, ContainerPlan]:
    holder, planned = client.find_holder(), plan()
    if holder is None or not planned.from_holder or not networking.is_here(planned, holder.about):
        raise errors.HostLacks("rehearse a relay: kernels are not the holder's")
    return _Inside(holder.about), planned


class _Holder(client.Holder):
    """Says of a container what the warm holder would say of one that was ready."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about
        self._theirs: list[socket.socket] = []

    def connect(self) -> client.Channel:
        """A channel whose first answer is there already."""
        ours, theirs = messages.pair()
        self._theirs.append(theirs)  # a closed one would be the end of the holder
        pidfd = os.pidfd_open(os.getpid())
        mounts = mounted.read()
        groups = {name: mount.directory for name, mount in mounts.v1.items()}
        if mounts.v2:
            groups = {"": mounts.v2.directory}
        answer = {
            "event": "created", "id": "rehearsal", "pid": os.getpid(), "limits": {},
            "groups": groups, "was_ready": True, "connected": None,
        }  # fmt: skip
        messages.send(theirs, answer, (pidfd,))
        os.close(pidfd)
        return client.Channel(ours)

    def end(self) -> None:
        """The process of the container is over, if there was one."""
        for theirs in self._theirs[:1]:
            messages.send(theirs, {"event": "exited", "status": 0})

    def close(self) -> None:
        """Let its ends go."""
        for end in self._theirs:
            end.close()


class _Inside(Inside):
    """An inside without a container. `links` are the ends that a kernel there would have."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__()
        ip = f"@{secrets.token_hex(8)}"  # an abstract name, unix(7)
        key = secrets.token_hex(16)
        self.where = Connection(1, 2, 3, 4, 5, key=key, ip=ip, transport="ipc")
        self.links: dict[str, Link] = {}
        self._holder = _Holder(about)

    def holder(self) -> client.Holder:
        assert self.channels
        for name, listener in self.channels.listeners.items():
            kind = "PUB" if name == "iopub" else "ROUTER"
            self.links[name] = Link(listener.accept()[0], kind, budget=1 << 20)
        return self._holder

    def keep_one_ready(self, plan: ContainerPlan) -> None:
        from sandbox_kernel.container import holding

        holding.keep_kernel_ready(plan, self._holder)

    def end(self) -> None:
        """As a kernel that has ended."""
        self._holder.end()

    def close(self) -> None:
        """Let all go that is left."""
        for link in self.links.values():
            link.close()
        self._holder.close()


def _talk(inside: _Inside, face: socket.socket, told: Callable[[], None]) -> None:
    """What a front end asks first, and how a kernel answers; then the kernel is to end."""
    where, context = inside.where, zmq.Context()
    try:
        outer = Signer(where.key.encode())
        hearing, shell = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        for end, port in ((hearing, where.iopub_port), (shell, where.shell_port)):
            end.rcvtimeo = int(1000 * SECONDS)
            end.reconnect_ivl = 1  # as soon as the relay is there
            end.connect(where.endpoint(port))
        hearing.subscribe(b"")
        hearing.recv_multipart()  # its welcome
        _ask(shell, outer, "kernel_info_request", {})
        shell.recv_multipart()
        inside.settled.wait(SECONDS)
        kernel = _Kernel(inside)
        kernel.hear_subscription()
        kernel.answer("kernel_info_reply", {"protocol_version": PROTOCOL})
        cell = {"code": CODE, "silent": False, "store_history": True, "allow_stdin": True}
        _ask(shell, outer, "execute_request", cell)
        kernel.answer(
            "execute_reply",
            {"status": "ok", "execution_count": 1, "user_expressions": {}, "payload": []},
            ("execute_input", {"code": CODE, "execution_count": 1}),
            ("stream", {"name": "stdout", "text": "first\n"}),
        )
        shell.recv_multipart()
        _ask(shell, outer, "kernel_info_request", {})
        shell.recv_multipart()  # all is over that follows the answer before it
        told()
    except (errors.SandboxError, OSError, zmq.ZMQError):
        pass
    finally:
        face.send(bytes((signal.SIGTERM,)))
        inside.end()
        context.destroy(linger=0)


def _ask(shell: zmq.Socket[bytes], signer: Signer, kind: str, content: dict[str, Any]) -> None:
    shell.send_multipart(frames(signer, _header(kind), EMPTY, EMPTY, encode(content)))


def _header(kind: str) -> bytes:
    return encode(
        {
            "msg_id": secrets.token_hex(16), "msg_type": kind, "session": "rehearsal",
            "username": "", "date": "2020-01-01T00:00:00Z", "version": PROTOCOL,
        }
    )  # fmt: skip


class _Kernel:
    """Answers over the links of an inside."""

    def __init__(self, inside: _Inside) -> None:
        self._links = inside.links
        self._signer = Signer(inside.key.encode())
        self._reader = Reader(self._signer, replays=False)

    def hear_subscription(self) -> None:
        self._hear("iopub")

    def answer(
        self, kind: str, content: dict[str, Any], *published: tuple[str, dict[str, Any]]
    ) -> None:
        """To the next request on the shell: its reply, and what is published of it."""
        request = self._hear_message()
        self._publish(request, "status", {"execution_state": "busy"})
        for each, what in published:
            self._publish(request, each, what)
        self._links["shell"].send(self._made(request, kind, content))
        self._publish(request, "status", {"execution_state": "idle"})

    def _publish(self, request: Message, kind: str, content: dict[str, Any]) -> None:
        self._links["iopub"].send([kind.encode(), *self._made(request, kind, content)])

    def _made(self, request: Message, kind: str, content: dict[str, Any]) -> list[Any]:
        return frames(self._signer, _header(kind), request.raw_header, EMPTY, encode(content))

    def _hear_message(self) -> Message:
        return self._reader.read(self._hear("shell"))

    def _hear(self, name: str) -> list[Any]:
        link = self._links[name]
        poll = select.poll()
        poll.register(link, select.POLLIN)
        link.flush()
        while poll.poll(1000 * SECONDS):
            for received in link.read():
                return received.frames
        raise TimeoutError
