"""The connection file that Jupyter writes for a kernel: where to listen, and the outer key."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from sandbox_kernel.errors import InvalidOption

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


def read(path: str) -> Connection:
    """Raises InvalidOption with what is wrong; an empty key is refused, nothing would be signed."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(1 << 20), type=Connection)
    except OSError as error:
        raise InvalidOption("-f", path, f"a connection file: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise InvalidOption("-f", path, f"a connection file with a key: {error}") from None
