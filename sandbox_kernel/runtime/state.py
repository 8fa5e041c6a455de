"""What lies on disk while containers live: one folder for each launcher, held by a lock.

    <runtime folder>/               0700, ours
        holder-<package>            names the warm holder, which has its lock (D2)
        ids/                        locks of id ranges (`identities.Reserve`)
        launchers/<launcher>/lock   flock(2) held by the launcher as long as it lives
        launchers/<launcher>/control.sock
        launchers/<launcher>/sources   empty; mounted on in the launcher's own mount namespace

Nothing here is trusted after its lock is free: the next launcher removes it, with the cgroups that
bear the same name. No pid is written down, so no stranger's process can be mistaken for ours.
"""

from __future__ import annotations

import binascii
import fcntl
import os
import stat

from sandbox_kernel.errors import HostLacks


def _package() -> str:
    """A name for the package as this process has loaded it: where it lies, and its files here."""
    place = os.path.dirname(os.path.abspath(__file__))
    files = []
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                seen = entry.stat()
                files.append((entry.name, seen.st_size, seen.st_mtime_ns))
    return format(binascii.crc32(ascii((place, sorted(files))).encode()), "08x")


_PACKAGE = _package()


def runtime_folder() -> str:
    """The runtime folder of this user, made if it is missing. Raises HostLacks if it is not ours.

    Root: /run/sandbox-kernel. Others: $XDG_RUNTIME_DIR/sandbox-kernel where that folder is the
    user's own (XDG base directory specification), else /tmp/sandbox-kernel-<uid>.
    """
    uid = os.getuid()
    if uid == 0:
        path = "/run/sandbox-kernel"
    else:
        given = os.environ.get("XDG_RUNTIME_DIR", "")
        usable = given.startswith("/") and _is_private(given, uid)
        path = f"{given}/sandbox-kernel" if usable else f"/tmp/sandbox-kernel-{uid}"  # noqa: S108
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise HostLacks(
            f"make the runtime folder `{path}`: {os.strerror(error.errno or 0)}: "
            "make its parent writable for you, or set XDG_RUNTIME_DIR to a folder of your own"
        ) from error
    if not _is_private(path, uid):
        raise HostLacks(
            f"use the runtime folder `{path}`: it is not a folder of yours with mode 0700: "
            "remove it, as its owner or as root"
        )
    return path


def _is_private(path: str, uid: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == uid
        and not stat.S_IMODE(found.st_mode) & 0o077
    )


class LauncherFolder:
    """The folder of one live launcher."""

    def __init__(self, runtime: str, name: str) -> None:
        self.name = name
        self.path = f"{runtime}/launchers/{name}"
        guard = _guard(runtime)
        try:
            os.mkdir(self.path, 0o700)
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._lock = os.open(f"{self.path}/lock", flags, 0o600)
            except OSError:
                os.rmdir(self.path)
                raise
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(guard)

    def is_ours(self) -> bool:
        """Whether its lock is still where others look for it: else it is dead to them."""
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(f"{self.path}/lock"))
        except OSError:
            return False

    def remove(self) -> None:
        """The launcher ends: nothing of it stays."""
        _remove(self.path)
        os.close(self._lock)


def new_name(runtime: str) -> str:
    """A name for one more launcher, which says in which runtime folder its lock will be."""
    return os.urandom(5).hex() + _mark(runtime)


def is_named_here(runtime: str, name: str) -> bool:
    """Whether a launcher's lock is in this folder, so that its absence means something.

    Control groups are the machine's, and runtime folders are not: a program with another one (of
    another session, in another mount namespace) has its groups beside ours.
    """
    return name.endswith(_mark(runtime))


def _mark(runtime: str) -> str:
    found = os.stat(runtime)
    return format((found.st_ino * 0x9E3779B1 ^ found.st_dev) & 0xFFFFFF, "06x")


def live_launchers(runtime: str) -> list[str]:
    """Names of the launchers that live now."""
    return [name for name in _names(runtime) if is_live(runtime, name)]


def is_live(runtime: str, name: str) -> bool:
    """Whether this launcher lives now. It has its lock before it makes anything else."""
    guard = _guard(runtime)
    try:
        return not _is_free(f"{runtime}/launchers/{name}")
    finally:
        os.close(guard)


def holder_file(runtime: str) -> str:
    """Names the warm holder of this package: after an upgrade there is another one, since what the
    old one is told and answers may have changed. The old one ends when nobody uses it."""
    return f"{runtime}/holder-{_PACKAGE}"


def become_holder(runtime: str, name: str) -> int | None:
    """Make the launcher `name` the warm holder of its user: a lock to keep, None: there is one."""
    path = holder_file(runtime)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        try:
            still_there = os.path.samestat(os.fstat(lock), os.stat(path))
        except FileNotFoundError:
            still_there = False
        if still_there:
            os.ftruncate(lock, 0)
            os.pwrite(lock, name.encode(), 0)
            return lock
        os.close(lock)  # its last owner has just removed it


def stays_holder(runtime: str, name: str, lock: int) -> bool:
    """Whether the file still is the one with our lock; what it says is put right."""
    try:
        if not os.path.samestat(os.fstat(lock), os.stat(holder_file(runtime))):
            return False
    except FileNotFoundError:
        return False
    if os.pread(lock, 256, 0) != name.encode():
        os.ftruncate(lock, 0)
        os.pwrite(lock, name.encode(), 0)
    return True


def stop_being_holder(runtime: str, name: str, lock: int) -> None:
    """Whoever looks for a holder from now on finds none."""
    if stays_holder(runtime, name, lock):
        os.unlink(holder_file(runtime))
    os.close(lock)


def holder(runtime: str) -> str | None:
    """The launcher that is the warm holder now. Asks without the lock: who tries to get it may."""
    try:
        with open(holder_file(runtime), encoding="ascii", errors="replace") as file:
            name = file.read(64)
    except FileNotFoundError:
        return None
    return name if name.isalnum() and is_live(runtime, name) else None


def sweep(runtime: str) -> list[str]:
    """Remove the folders of launchers that ended without doing so. Returns their names."""
    guard = _guard(runtime)
    try:
        gone = [name for name in _names(runtime) if _is_free(f"{runtime}/launchers/{name}")]
        for name in gone:
            _remove(f"{runtime}/launchers/{name}")
        for name in os.listdir(runtime):
            if name.startswith("holder"):
                _remove_if_free(f"{runtime}/{name}")
    finally:
        os.close(guard)
    return gone


def _remove_if_free(path: str) -> None:
    """The file of a holder that was killed. Who just opened it sees that it is gone (above)."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        pass  # it is in use, or its holder has just removed it
    finally:
        os.close(lock)


def launchers_folder(runtime: str) -> str:
    """Where each launcher has its folder, made if it is missing: before the first one ever."""
    path = f"{runtime}/launchers"
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def _guard(runtime: str) -> int:
    """A lock that keeps a folder from being swept between its making and its locking."""
    guard = os.open(launchers_folder(runtime), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(guard, fcntl.LOCK_EX)
    return guard


def _names(runtime: str) -> list[str]:
    try:
        return sorted(os.listdir(f"{runtime}/launchers"))
    except FileNotFoundError:
        return []


def _is_free(path: str) -> bool:
    try:
        lock = os.open(f"{path}/lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _remove(path: str) -> None:
    """Remove a launcher's folder: files, sockets, and empty folders that were mounted on."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    for name in names:
        try:
            os.unlink(f"{path}/{name}")
        except IsADirectoryError:
            os.rmdir(f"{path}/{name}")
        except FileNotFoundError:
            pass  # another sweep was quicker
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass  # another sweep was quicker
