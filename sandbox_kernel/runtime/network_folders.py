"""Folders of network holders: one for each network namespace of the machine, held by a lock.

    <runtime folder>/networks/<network namespace>/lock        flock(2) of the holder that lives
                                                 /socket      where it listens
                                                 /forwarding  see `forwarding`; root only

What is in a folder whose lock is free was left by a holder that was killed: the next launcher or
holder takes it back. Light: the launcher imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from sandbox_kernel.runtime import forwarding, wiring

_FILES = ("socket", "lock")


def hold(path: str) -> int | None:
    """Take the lock of a folder, which is made if it is missing; None: somebody has it."""
    while True:
        os.makedirs(path, mode=0o700, exist_ok=True)
        try:
            lock = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # it was just removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(f"{path}/lock")):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass  # its last owner has just removed it
        os.close(lock)


def remove(path: str) -> None:
    """The folder of which we have the lock."""
    for name in _FILES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}/{name}")
    with contextlib.suppress(FileNotFoundError, OSError):  # somebody has just made another lock
        os.rmdir(path)


def sweep(runtime: str) -> None:
    """Take back what holders have left that were killed."""
    parent = f"{runtime}/networks"
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return
    for name in names:
        path = f"{parent}/{name}"
        lock = hold(path)
        if lock is None:
            continue
        try:
            if name == wiring.space():
                forwarding.switch_back(path)
            elif os.path.exists(f"{path}/{forwarding.RECORD}"):
                continue  # of links in another network namespace: whoever is there takes it back
            remove(path)
        finally:
            os.close(lock)
