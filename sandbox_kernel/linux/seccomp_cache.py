"""Compiled seccomp programs, kept by what they were made of. Light: what compiles is imported late.

How a program is made is in `linux/seccomp.py`.
"""

from __future__ import annotations

import os
import stat

from sandbox_kernel import plain_json
from sandbox_kernel.linux import libc as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_kernel.linux.seccomp import Profile

# Part of the cache key: raise it when the same profile would compile to another program.
_COMPILER = 2


def program(profile: Profile, directory: str | None = None) -> bytes:
    """The compiled program, from the cache when it is there, else built and put there.

    The file holds a digest of the program; one that is damaged, foreign or writable by others is
    not believed but built again. A cache that can't be written costs time and nothing else.
    Raises HostLacks or StepFailed.
    """
    made_of = [profile, _library_version(), os.uname().machine, _COMPILER]
    key = _digest(plain_json.written(made_of, sort_keys=True).encode()).hex()
    directory = directory or cache_directory()
    path = f"{directory}/{key}.bpf"
    found = _read(path)
    if found is None:
        from sandbox_kernel.linux import seccomp

        found = seccomp.build(profile)
        try:
            _write(directory, path, found)
        except OSError:
            pass  # it is built again the next time
    return found


def cache_directory(environment: Mapping[str, str] = os.environ) -> str:
    """Where programs are kept: below XDG_CACHE_HOME, or ~/.cache."""
    base = environment.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~/.cache")
    return f"{base}/sandbox-kernel/seccomp"


def _library_version() -> str:
    """Of libseccomp; nothing of the cache was made without one, and what builds says so."""
    try:
        version = c.load("libseccomp.so.2")["seccomp_version"]
    except OSError:
        return ""
    version.argtypes = ()
    version.restype = c.c_void_p
    # struct scmp_version { unsigned int major, minor, micro; }
    numbers = (c.c_uint32 * 3).from_address(version())
    return ".".join(map(str, numbers))


def _digest(data: bytes) -> bytes:
    try:  # as Python is built mostly; `hashlib` loads OpenSSL for the same
        from _sha2 import sha256
    except ImportError:
        try:
            from _sha256 import sha256  # before Python 3.12
        except ImportError:
            from hashlib import sha256
    digest: bytes = sha256(data).digest()
    return digest


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022:
            return None
        if status.st_uid != os.geteuid():
            return None
        data = os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
    digest, found = data[:32], data[32:]
    return found if found and _digest(found) == digest else None


def _write(directory: str, path: str, found: bytes) -> None:
    import tempfile

    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=directory)  # 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(_digest(found) + found)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
