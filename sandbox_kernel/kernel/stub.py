"""What Jupyter started, where a relay template is: a face for the relay that the template forks.

The stub hands over its connection file, working folder, environment and descriptors, then passes on
signals and ends as the relay does. One socket is all that is between them: when the stub is killed
the relay reads its end, and the other way round. There is one stub for each kernel, as long as it
lives, so it ends to be a Python (`linux.stub_process`); and it imports next to nothing, since it is
what a start waits for.

What is said, `relay_template.py` has the other side:

    stub     length of the rest in 8 bytes, with the descriptors 0, 1, 2 and the working folder;
             identity, umask, number of words, words, variables, with zero bytes between them;
             afterwards a byte for each signal
    relay    `a`: it is mine from here on, or `d`: start by yourself;
             then `e` and a byte, the status
"""

from __future__ import annotations

import _socket
import binascii
import os
import select
import sys

import sandbox_kernel
from sandbox_kernel.errors import HostLacks
from sandbox_kernel.runtime import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # `signal` makes enumerations of them

ACCEPTED, DECLINED, ENDED = b"a", b"d", b"e"
LENGTH = 8
LOST_STATUS = 1
"""Of a stub whose relay was killed."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
UCRED = 12
"""Bytes of struct ucred, unix(7): pid, uid, gid."""


def main() -> None:
    """`python -m sandbox_kernel ...`: by the template if there is one, else in this process."""
    words = sys.argv[1:]
    if words[:1] == ["-f"]:
        status = hand_over(words)
        if status is not None:
            sys.exit(status)
    from .main import main as run

    run(words)


def identity() -> str:
    """What a template and whoever uses it must have in common: interpreter, packages, home."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    variables = {name: os.environ[name] for name in sorted(os.environ) if name[:6] == "PYTHON"}
    return ascii(
        (
            *(sys.executable, sys.prefix, sys.version, tuple(sys.flags), variables),
            *(os.environ.get("HOME"), sandbox_kernel.__version__, package),
            os.stat(os.path.dirname(package)).st_mtime_ns,
        )
    )


def place(known: str) -> str | None:
    """Where the template of this identity listens, beside the warm holder; None without one."""
    runtime = state.runtime_folder()
    try:
        with open(state.holder_file(runtime), encoding="ascii", errors="replace") as file:
            holder = file.read(64)
    except FileNotFoundError:
        return None
    if not holder.isalnum():
        return None
    return f"{runtime}/launchers/{holder}/relays-{binascii.crc32(known.encode()):08x}.sock"


def connect(path: str) -> _socket.socket | None:
    """A connection to the template, None when nobody of ours listens there."""
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        channel.connect(path)
        peer = channel.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, UCRED)
    except OSError:
        channel.close()
        return None
    if int.from_bytes(peer[4:8], sys.byteorder) != os.getuid():
        channel.close()
        return None
    return channel


def hand_over(words: list[str]) -> int | None:
    """The status of the relay that a template forked, when it has ended; None: there is none."""
    # Until the relay is there an interrupt has nothing to interrupt, and must not end the start.
    signal.signal(signal.SIGINT, _pass_on)
    try:
        known = identity()
        path = place(known)
        channel = connect(path) if path else None
        if channel is None:
            return None
        say(channel, known, words)
        answer = channel.recv(1)
    except (HostLacks, OSError):
        return None
    if answer != ACCEPTED:
        channel.close()
        return None
    return _stay(channel)


def _pass_on(number: int, frame: object) -> None:
    """The number itself goes over the socket, by `set_wakeup_fd`."""


def say(channel: _socket.socket, known: str, words: list[str]) -> None:
    """All that a relay has to know of this process."""
    os.umask(umask := os.umask(0o077))
    variables = [b"%b=%b" % pair for pair in os.environb.items()]
    said = [known.encode(), b"%d" % umask, b"%d" % len(words), *map(os.fsencode, words), *variables]
    body = b"\0".join(said)
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        given = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2, folder))
        control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, given)]
        channel.sendmsg([len(body).to_bytes(LENGTH, "little")], control)
        channel.sendall(body)
    finally:
        os.close(folder)


def _stay(channel: _socket.socket) -> int:
    """Become a program that passes on signals until the relay ends, and ends as that does.

    Where memory files can't be executed, or there is no program for this kind of processor, this
    Python does the same; only then it returns, the status.
    """
    from sandbox_kernel.linux import stub_process

    # What comes from here on is for the program, and waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        program = stub_process.new_program(channel.fileno())
        os.set_inheritable(channel.fileno(), True)
        os.execve(program, sys.orig_argv, os.environ)
    except OSError:
        channel.setblocking(False)
        signal.set_wakeup_fd(channel.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    said = b""
    while True:
        poll.poll()
        try:
            data = channel.recv(64)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            data = b""
        said += data
        if not data:
            break
    return said[1] if said[:1] == ENDED and len(said) > 1 else LOST_STATUS
