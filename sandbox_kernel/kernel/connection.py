"""The connection file that Jupyter writes for a kernel: where to listen, and the outer key."""

from __future__ import annotations

import fcntl
import os
import signal
from typing import Annotated, Literal, NoReturn

import msgspec

from sandbox_kernel.errors import InvalidOption

TURN_SECONDS = 5.0

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Connection(msgspec.Struct, frozen=True):
    """The fields that are used. `key` never goes inside."""

    shell_port: Port
    iopub_port: Port
    stdin_port: Port
    control_port: Port
    hb_port: Port
    key: Annotated[str, msgspec.Meta(min_length=1)]
    ip: str = "127.0.0.1"
    transport: Literal["tcp", "ipc"] = "tcp"
    signature_scheme: str = "hmac-sha256"
    curve_publickey: str | None = None
    curve_secretkey: str | None = None

    def endpoint(self, port: int) -> str:
        """Where one of the sockets listens."""
        if self.transport == "tcp":
            return f"tcp://{self.ip}:{port}"
        return f"ipc://{self.ip}-{port}"

    def ports(self) -> dict[str, int]:
        """As `connect_reply` has them."""
        names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
        return {name: getattr(self, name) for name in names}


_known = msgspec.json.Decoder(Connection)


def read(path: str) -> Connection:
    """Raises InvalidOption with what is wrong; an empty key is refused, nothing would be signed."""
    try:
        with open(path, "rb") as file:
            return _known.decode(file.read(1 << 20))
    except OSError as error:
        raise InvalidOption("-f", path, f"a connection file: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise InvalidOption("-f", path, f"a connection file with a key: {error}") from None


def take_turn(path: str) -> None:
    """Wait until no other process is this kernel: then the ports of the connection are free.

    Jupyter starts a kernel again, on the same ports, as soon as the process that it knows has been
    killed, and the relay that was forked for that one may still be about to hear of it. The lock on
    the connection file is ours as long as we live. Called in the main thread.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    before = signal.signal(signal.SIGALRM, _no_longer)
    signal.setitimer(signal.ITIMER_REAL, TURN_SECONDS)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except (TimeoutError, OSError):
        pass  # no file system for locks, or somebody else's: then binding says what is wrong
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _no_longer(number: int, frame: object) -> NoReturn:
    raise TimeoutError
