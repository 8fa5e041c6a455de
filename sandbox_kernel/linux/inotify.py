"""Waiting for changes of files and directories: inotify(7); numbers of linux/inotify.h."""

from __future__ import annotations

import ctypes
import os

from sandbox_kernel.linux import libc as c

IN_MODIFY = 0x00000002
IN_CREATE = 0x00000100
IN_NONBLOCK = os.O_NONBLOCK
IN_CLOEXEC = os.O_CLOEXEC

_inotify_init1 = c.libc.inotify_init1
_inotify_init1.argtypes = (ctypes.c_int,)
_inotify_init1.restype = ctypes.c_int
_inotify_add_watch = c.libc.inotify_add_watch
_inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_inotify_add_watch.restype = ctypes.c_int


def watch_modified(path: str) -> int:
    """A descriptor that is readable when the file changed; files of a cgroup tell it so, too."""
    return _watch(path, IN_MODIFY)


def watch_created(directory: str) -> int:
    """A descriptor that is readable when something was made in a directory."""
    return _watch(directory, IN_CREATE)


def watch_removed(directory: str) -> int:
    """A descriptor that is readable when something was taken from a directory, or it itself."""
    return _watch(directory, IN_DELETE | IN_MOVED | IN_DELETE_SELF | IN_MOVE_SELF)


def _watch(path: str, mask: int) -> int:
    descriptor = c.check(_inotify_init1(IN_NONBLOCK | IN_CLOEXEC))
    try:
        c.check(_inotify_add_watch(descriptor, os.fsencode(path), mask))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


IN_ATTRIB = 0x00000004
IN_MOVED = 0x000000C0
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_MOVE_SELF = 0x00000800
IN_ONLYDIR = 0x01000000
IN_Q_OVERFLOW = 0x00004000


def open_many() -> int:
    """A descriptor for many watches, which does not block; `add` puts them there."""
    return c.check(_inotify_init1(IN_NONBLOCK | IN_CLOEXEC))


def add_file(descriptor: int, path: str) -> None:
    """Tell when a file is written; those of a cgroup also tell what happens to it. OSError."""
    c.check(_inotify_add_watch(descriptor, os.fsencode(path), IN_MODIFY))


def add_folder(descriptor: int, folder: int) -> None:
    """Tell of names that come, go or change in a directory, given by its descriptor. OSError."""
    mask = IN_CREATE | IN_DELETE | IN_MOVED | IN_MODIFY | IN_ATTRIB | IN_ONLYDIR
    c.check(_inotify_add_watch(descriptor, f"/proc/self/fd/{folder}".encode(), mask))
