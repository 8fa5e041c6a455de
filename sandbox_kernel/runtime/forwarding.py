"""Whether this machine passes packets on: switched on for a way out, and back again.

As root a way out goes through the machine's own network namespace, which has to pass the answers on
(`net.ipv4.conf.<link>.forwarding`). What is switched on is written down first, in the folder of who
did it, so that the next start takes it back when he was killed. Light: the launcher imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket

RECORD = "forwarding"


def switch_on(folder: str, interfaces: dict[str, int]) -> list[str]:
    """Let these links (name to number) pass packets on; those that did not are returned.

    Raises OSError; what was switched on by then is in the record.
    """
    off = {name: index for name, index in interfaces.items() if not is_on(name)}
    if not off:
        return []
    temporary = f"{folder}/{RECORD}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(off, file)
    os.rename(temporary, f"{folder}/{RECORD}")
    for name in off:
        _write(name, "1")
    return list(off)


def switch_back(folder: str) -> None:
    """What the record in a folder says was off is off again. Nothing happens when there is none."""
    try:
        with open(f"{folder}/{RECORD}", encoding="utf-8") as file:
            changed = json.load(file)
    except (FileNotFoundError, ValueError):
        changed = {}
    for name, index in changed.items():
        try:
            same = socket.if_nametoindex(name) == index
        except OSError:
            continue  # that link is gone
        if same:
            _write(name, "0")
    for left in (RECORD, f"{RECORD}.new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{folder}/{left}")


def is_on(name: str) -> bool:
    """Whether a link of this network namespace passes packets on."""
    try:
        with open(_path(name), encoding="ascii") as file:
            return file.read().strip() != "0"
    except OSError:
        return True  # it went away


def _path(name: str) -> str:
    return f"/proc/sys/net/ipv4/conf/{name}/forwarding"


def _write(name: str, value: str) -> None:
    file = os.open(_path(name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, value.encode())
    finally:
        os.close(file)
