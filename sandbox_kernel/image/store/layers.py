"""Unpacked layers: each a folder under its diff id, made once, whole or not there.

The files of a layer are not flushed one by one when it is made: that would take longer than to
make it. Its `facts` say in which boot of the machine it was made, and once the system had the time
to write it down by itself it is flushed as a whole, which is cheap then (`settle`). A layer that
was made in an earlier boot and never flushed may have lost files to a power cut; it counts as not
there, and is made again of its blob.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import cache

from sandbox_kernel.errors import HostLacks, ImageError, SandboxError
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.store import locks
from sandbox_kernel.image.store.places import Places, flush_folder, write_file
from sandbox_kernel.linux.libc import c_int, check, libc

SECONDS_TO_SETTLE = 60.0
"""The kernel writes down what is older than 30 s (vm.dirty_expire_centisecs)."""

libc.syncfs.argtypes = (c_int,)
libc.syncfs.restype = c_int


@cache
def boot() -> str:
    """Which start of the machine this is."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def find(places: Places, diff_id: Digest) -> str | None:
    """The tree of a layer that is whole, or None."""
    folder = places.layer(diff_id)
    facts = read_facts(folder)
    if facts is None or (not facts.get("flushed") and facts.get("boot") != boot()):
        return None
    return f"{folder}/tree"


def read_facts(folder: str) -> dict[str, object] | None:
    """What was noted when the layer was made; None when that is not whole."""
    try:
        with open(f"{folder}/facts", "rb") as file:
            found = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def add(places: Places, diff_id: Digest, make: Callable[[str], str | None]) -> str:
    """The tree of a layer; `make` fills an empty folder with it if there is none yet.

    One makes at a time, the others wait and take what he made. Whatever `make` raises goes on, and
    nothing is left of what it did.
    """
    hexadecimal = digests.hexadecimal(diff_id)
    with (
        locks.hold(places.lock("content"), shared=True),
        locks.hold(places.lock(f"layer-{hexadecimal}"), passing=True),
    ):
        found = find(places, diff_id)
        if found is not None:
            return found
        for name in os.listdir(places.partial("")):
            if name.startswith(f"layer-{hexadecimal}-"):  # of one who was killed: we have his lock
                leave(places.partial(name))
        made = places.partial(f"layer-{hexadecimal}-{os.urandom(4).hex()}")
        try:
            os.mkdir(made, 0o700)
            os.mkdir(f"{made}/tree", 0o755)
            os.chmod(f"{made}/tree", 0o755)  # noqa: S103 - below a folder that is 0700
            _publish(places, diff_id, made, make(f"{made}/tree"))
        except BaseException as error:
            if os.path.lexists(made):
                leave(made)
            if isinstance(error, OSError) and not isinstance(error, SandboxError):
                raise ImageError(
                    f"unpack layer `{diff_id}`: {error.strerror}: free space or mend the store at "
                    f"`{places.root}`, then try again"
                ) from error
            raise
    return f"{places.layer(diff_id)}/tree"


def _publish(places: Places, diff_id: Digest, made: str, notice: str | None) -> None:
    folder = places.layer(diff_id)
    # Flushing any file here would have the journal write all that was unpacked before it.
    with open(f"{made}/facts", "wb") as file:
        file.write(_facts(notice, flushed=False))
    if os.path.lexists(folder):  # of an earlier boot, never flushed
        leave(_put_aside(places, folder))
    os.rename(made, folder)


def _facts(notice: object, *, flushed: bool) -> bytes:
    facts = {"boot": boot(), "made": time.time(), "flushed": flushed, "notice": notice}
    return json.dumps(facts).encode()


def notice(tree: str) -> str | None:
    """What was to be told of a layer when it was made, if there was something."""
    found = (read_facts(os.path.dirname(tree)) or {}).get("notice")
    return found if isinstance(found, str) else None


def settle(places: Places, trees: Iterable[str]) -> None:
    """Flush layers for good that were made so long ago that this costs next to nothing."""
    with ExitStack() as held:
        due: dict[str, dict[str, object]] = {}
        for folder in map(os.path.dirname, trees):
            facts = read_facts(folder)
            if facts is not None and _is_due(facts):
                name = f"layer-{os.path.basename(folder)}"
                lock = locks.try_hold(places.lock(name), passing=True)
                if lock is not None:  # else another one is at it
                    held.enter_context(lock)
                    due[folder] = facts
        if not due:
            return
        fd = os.open(f"{places.root}/layers", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            check(libc.syncfs(fd))
        finally:
            os.close(fd)
        for folder, facts in due.items():
            with suppress(FileNotFoundError):  # it was removed just now
                write_file(f"{folder}/facts.new", _facts(facts.get("notice"), flushed=True))
                os.rename(f"{folder}/facts.new", f"{folder}/facts")
                flush_folder(folder)


def _is_due(facts: dict[str, object]) -> bool:
    """What was made at a time that is to come was made by a wrong clock, so nobody knows when."""
    made = facts.get("made")
    return (
        not facts.get("flushed")
        and isinstance(made, float)
        and not 0 <= time.time() - made < SECONDS_TO_SETTLE
    )


def hold(places: Places, diff_id: Digest) -> int | None:
    """A descriptor that keeps the layer from being removed until it is closed; None: it is gone."""
    folder = places.layer(diff_id)
    while True:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            whole = find(places, diff_id) is not None
            # Another one may have removed it and a third made it anew while we waited.
            same = os.path.exists(folder) and os.path.samestat(os.fstat(fd), os.stat(folder))
        except FileNotFoundError:
            whole = same = False
        except BaseException:
            os.close(fd)
            raise
        if whole and same:
            return fd
        os.close(fd)
        if not whole:
            return None


def remove(places: Places, folder: str) -> bool:
    """Remove a layer's folder, unless somebody uses it. Whether it is gone.

    Raises HostLacks when not all of it can be removed: what stays is no layer any more.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        discard(_put_aside(places, folder))
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _put_aside(places: Places, folder: str) -> str:
    """Take a layer's folder out of sight at once; where it is to be removed."""
    away = places.partial(f"removed-{os.path.basename(folder)}-{os.urandom(4).hex()}")
    os.rename(folder, away)
    return away


def discard(folder: str) -> None:
    """Remove a folder with all that is in it, whoever owns it. Raises HostLacks."""
    from sandbox_kernel.image.layers import remove_tree

    remove_tree(folder)


def leave(folder: str) -> None:
    """The same, as far as it goes: each collection tries again what stays, and tells of it."""
    with suppress(HostLacks):
        discard(folder)
