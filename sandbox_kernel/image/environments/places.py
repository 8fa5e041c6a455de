"""Where environments are kept on disk, and how files get there whole.

    ~/.cache/sandbox-kernel/environments/       of this user alone (0700)
        locks/       what was resolved, by digest and by what was asked for
        wheels/      one tree for each wheel, by its hash and the version of Python
        conda/       one tree for each package of conda, by its hash
        built/       on what each `build:PATH` built the last time
        channels/    what channels of conda have, as rattler keeps it
        groups/      small wheels as one tree, made of hard links
        skeletons/   what an environment has beside its packages
        partial/     what is being made; removed by the next that makes something
        lock         who makes something holds it

All of it can be made again from an index. A tree is complete when it has its name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator

from sandbox_kernel.errors import HostLacks
from sandbox_kernel.linux import libc as c

VARIABLE = "SANDBOX_KERNEL_ENVIRONMENTS"
"""Another place for all of it, which must be on the file system of uv's cache to share files."""
PARTIAL = "partial"

# int syncfs(int fd);
_syncfs = c.libc["syncfs"]
_syncfs.argtypes = (ctypes.c_int,)
_syncfs.restype = ctypes.c_int


def root() -> str:
    """The folder of this user; made when it is missing. Raises HostLacks."""
    path = os.environ.get(VARIABLE, "")
    if not os.path.isabs(path):
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.join(os.path.expanduser("~"), ".cache")
        path = os.path.join(base, "sandbox-kernel", "environments")
    if not os.path.isabs(path):
        raise HostLacks("keep environments: there is no home folder: set XDG_CACHE_HOME")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        seen = os.stat(path)
    except OSError as error:
        raise HostLacks(
            f"keep environments: make `{path}`: {error.strerror}: set XDG_CACHE_HOME to a folder "
            "that you can write"
        ) from None
    if seen.st_uid != os.getuid() or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HostLacks(
            f"keep environments: `{path}` can be written by others: chown it to yourself, and run "
            f"`chmod 700 {path}`"
        )
    return path


def folder(name: str) -> str:
    """One of the folders there; made when it is missing."""
    path = os.path.join(root(), name)
    make(path)
    return path


def make(path: str) -> None:
    """A folder with its parents that everybody in a container can read, whatever the umask."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        make(os.path.dirname(path))
        os.mkdir(path, 0o755)
    os.chmod(path, 0o755)  # noqa: S103 - of packages and their folders, which are no secret


def link(source: str, destination: str) -> None:
    """A tree of the same files: folders are made, files are hard links. It may be there in part.

    Raises NotADirectoryError where one tree has a folder and another one a link or a file: nothing
    is written through a link that came with a package.
    """
    make(destination)
    if not stat.S_ISDIR(os.lstat(destination).st_mode):
        raise _not_a_folder(destination)
    with os.scandir(source) as entries:
        for entry in entries:
            below = os.path.join(destination, entry.name)
            if entry.is_dir(follow_symlinks=False):
                link(entry.path, below)
            else:
                try:
                    os.link(entry.path, below, follow_symlinks=False)
                except FileExistsError:
                    if stat.S_ISDIR(os.lstat(below).st_mode):
                        raise _not_a_folder(below) from None


def _not_a_folder(path: str) -> NotADirectoryError:
    why = "two packages have it, and for only one it is a folder"
    return NotADirectoryError(errno.ENOTDIR, why, path)


@contextlib.contextmanager
def making() -> Iterator[str]:
    """One maker at a time. Gives an empty folder, and removes what a killed maker left."""
    held = os.open(os.path.join(root(), "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        partial = os.path.join(root(), PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        yield partial
        shutil.rmtree(partial)
    finally:
        os.close(held)


def is_there(path: str) -> bool:
    """Whether a tree is complete; it is then noted as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def publish(made: str, path: str) -> None:
    """Give a complete tree its name. `settle` was called since data was written."""
    os.rename(made, path)


def settle(path: str) -> None:
    """Have what was written on this file system on the disk: names come after content."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        c.check(_syncfs(descriptor))
    finally:
        os.close(descriptor)


def write(path: str, data: bytes) -> None:
    """A small file, whole or not at all."""
    temporary = f"{path}.{secrets.token_hex(6)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read(path: str, most: int) -> bytes | None:
    """A small file; None when it is not there."""
    try:
        with open(path, "rb") as file:
            return file.read(most + 1)
    except FileNotFoundError:
        return None
