"""The relay template: it has imported all of the relay, and forks one for each kernel that starts.

It is kept beside the warm holder, in whose folder it listens and with which it ends. It runs no
code of a user and knows nothing of a kernel: what it forks reads who asks, takes over descriptors,
working folder and environment, and becomes the relay. Any of them can be killed: a stub and its
relay end together (`stub.py`), what was forked does not need the template, and without one the
process that Jupyter starts is the relay itself.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from sandbox_kernel.errors import SandboxError
from sandbox_kernel.linux import processes, template_memory
from sandbox_kernel.runtime import client

from . import stub

if TYPE_CHECKING:
    from collections.abc import Callable

    from .start import Inside

CONFIGURATION = "XDG_CONFIG_HOME"
MOST_BYTES = 16 << 20
HEAR_SECONDS = 10.0
REHEARSAL_SECONDS = 10.0
KEPT = ("HOME", "LANG", "PATH", "VIRTUAL_ENV", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH")
"""Variables that a template has of whoever starts it, with those of Python; its relays have their
own."""
_PROGRAM = "from sandbox_kernel.kernel.relay_template import main; main()"


def keep_one() -> None:
    """Have a template beside the warm holder; nothing happens when there is one, or no holder."""
    path = stub.place(stub.identity())
    if path is None:
        return
    there = stub.connect(path)
    if there is not None:
        there.close()
        return
    kept = {"JUPYTER_NO_CONFIG": "1"} | {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith(("PYTHON", "LC_"))
    }
    import subprocess  # is none of what each relay needs

    subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        start_new_session=True, cwd="/", env=kept,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def main() -> None:
    """Serves until the holder ends, in whose folder it listens."""
    known = stub.identity()
    path = stub.place(known)
    if path is None:
        return  # it has just ended
    holder = client.open_control(os.path.dirname(path))
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # somebody else has just started one
    with suppress(FileNotFoundError):
        os.unlink(path)  # of one that was killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_all()
    _rehearse(known)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that we fork are nobody's to wait for
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    os.umask(0o077)
    listener.bind(path)
    listener.listen(16)
    listener.setblocking(False)
    processes.set_name("sandbox-relays")
    template_memory.settle()
    poll = select.poll()
    for what in (listener, holder):
        poll.register(what, select.POLLIN)
    while True:
        ready = {number for number, _ in poll.poll()}
        if holder.fileno() in ready:  # it has nothing to say but its end
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue  # who came has gone
        with connection:
            connection.setblocking(True)
            try:
                child = os.fork()
            except OSError:
                continue  # the stub starts by itself
            if child == 0:
                for descriptor in (listener.fileno(), holder.fileno(), lock):
                    os.close(descriptor)
                _become_relay(connection, known)


def _import_all() -> None:
    """What the relay needs until its first cell has run."""
    import tomllib  # noqa: F401 - for the files of settings

    from sandbox_kernel.container import holding, program

    from . import start

    # What is worked out here is not in each of them once more: the built-in defaults, no file. It
    # takes memory that is free afterwards, so it comes before the rest, which fills that.
    program.program(program.KERNEL)
    program.program(program.TEMPLATE)
    holding.prepare_order(start.plan())

    from . import info, main, rehearsal, relay  # noqa: F401

    info.first()


def _rehearse(known: str) -> None:
    """Go the way of those that will be forked: they find done what each would do for itself, and
    the code that they write to lies side by side. Where this fails, they do it themselves.

    It has the built-in settings: what the user's say is not done, and nothing is in his record.
    """
    from . import rehearsal

    def fork(told: Callable[[], None]) -> None:
        rehearsal.in_a_fork(known, _become_relay, told)

    os.environ[CONFIGURATION] = os.devnull  # what is below it is not there
    try:
        # A fork that comes through shows that the way has an end.
        if not template_memory.written_by_a_fork(fork, REHEARSAL_SECONDS):
            return
        template_memory.have_one_heap()
        for _ in range(2):
            rehearsal.in_place()
        template_memory.lay_together(template_memory.written_by_a_fork(fork, REHEARSAL_SECONDS))
        for _ in range(2):  # the code is new
            rehearsal.in_place()
    finally:
        del os.environ[CONFIGURATION]


def _become_relay(connection: socket.socket, known: str, inside: Inside | None = None) -> NoReturn:
    """Read who asks, become his, and run the relay."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        words = _take_over(connection, known)
        if words is None:
            connection.sendall(stub.DECLINED)
            os._exit(0)
        processes.set_name("sandbox-relay")
        processes.set_command_line(" ".join(("sandbox-relay", *words)))
        from .main import run_for
        from .start import Inside

        run_for(connection, words, inside or Inside())
    except (OSError, SandboxError, ValueError) as error:
        # Before it was accepted: the stub sees our end and starts by itself.
        print(f"sandbox-kernel: fork a relay: {error}", file=sys.stderr)
    finally:
        os._exit(1)


def _take_over(connection: socket.socket, known: str) -> list[str] | None:
    """Descriptors, folder, environment and umask of the stub; its words, None if it is no match.

    Raises OSError, ValueError for what no stub says.
    """
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, stub.UCRED)
    if int.from_bytes(peer[4:8], sys.byteorder) != os.getuid():
        return None
    connection.settimeout(HEAR_SECONDS)
    head, given, _, _ = socket.recv_fds(connection, stub.LENGTH, 4, socket.MSG_CMSG_CLOEXEC)
    left = int.from_bytes(head, "little")
    if len(head) != stub.LENGTH or len(given) != 4 or left > MOST_BYTES:
        raise ValueError("not what a stub says")
    body = bytearray()
    while len(body) < left:
        data = connection.recv(left - len(body))
        if not data:
            raise ValueError("the stub ended")
        body += data
    connection.settimeout(None)
    theirs, umask, number, *rest = bytes(body).split(b"\0")
    if theirs != known.encode():
        return None
    words = [os.fsdecode(word) for word in rest[: int(number)]]
    for standard, descriptor in enumerate(given[:3]):
        os.dup2(descriptor, standard)
    os.fchdir(given[3])
    for descriptor in given:
        os.close(descriptor)
    os.umask(int(umask))
    os.environ.clear()
    for variable in rest[int(number) :]:
        name, _, value = variable.partition(b"=")
        os.environb[name] = value
    sys.argv = ["sandbox_kernel", *words]
    return words
