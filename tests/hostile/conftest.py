"""Hostile code in a fresh container, and a host full of canaries that must not notice.

`inside(code)` runs a piece of Python in a container of its own and tells what it printed and how
it ended. `canaries` is what an attack would like to read, reach, change or end on the host; it is
compared before and after every test. Processes, mounts and groups left over are found by the
fixture of all tests (`tests/conftest.py`).
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sandbox_kernel
from sandbox_kernel import policy
from sandbox_kernel.container import Container, Exit, Process, ProcessSpec

# What `Inside.tell` puts before the code: ways to try things, and to say what came of it.
PRELUDE = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    "A raw system call: its result, or the name of its error."
    sent = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *sent)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result
def attempt(function, *arguments, **more):
    "The name of the error that a function raises, or `done`."
    try:
        function(*arguments, **more)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def read(path, size=1 << 16):
    "What a file holds, as text, or the name of the error."
    try:
        with open(path, "rb") as file:
            return file.read(size).decode("latin-1")
    except OSError as error:
        return errno.errorcode[error.errno]
def write(path, data=b"1"):
    "Write to a file that is there."
    def do():
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
    return attempt(do)
def tell(found):
    print(json.dumps(found))
"""
MOST_OUTPUT = 16 << 20
SWITCHES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/kernel/randomize_va_space",
)


class Ran(NamedTuple):
    """What a piece of code printed (both streams), and how it ended."""

    output: str
    exit: Exit

    @property
    def lines(self) -> list[str]:
        """The output by lines."""
        return self.output.splitlines()


class Canaries:
    """Things on the host that nobody inside may see, reach, change or end."""

    def __init__(self, folder: Path) -> None:
        self.secret = f"canary-{secrets.token_hex(16)}"
        self.file = folder / "canary.txt"
        self.file.write_text(self.secret)
        # Readable for everybody, so that only the container keeps it from being read.
        self.file.chmod(0o666)
        for parent in (folder, *folder.parents[:2]):
            with contextlib.suppress(PermissionError):
                parent.chmod(parent.stat().st_mode | 0o011)
        self.abstract = f"\0sandbox-canary-{secrets.token_hex(8)}"
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(self.abstract)
        self.unix.listen()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]
        self.process = subprocess.Popen(["/bin/sleep", "600"])
        self.before: dict[str, object] = {}

    def snapshot(self) -> dict[str, object]:
        """Everything that must stay as it is."""
        return {
            "canary": self.file.read_text(),
            "canary mode": self.file.stat().st_mode,
            "beside the canary": sorted(os.listdir(self.file.parent)),
            "sleeper": self.process.poll(),
            "group": Path(f"/proc/{self.process.pid}/cgroup").read_text(),
            "interpreter": _digest(os.path.realpath(sys.executable)),
            "library": _digest(os.__file__),
            "package": _digest(policy.__file__),
            "passwd": _digest("/etc/passwd"),
            "host name": socket.gethostname(),
            "switches": [Path(p).read_bytes() for p in SWITCHES if os.path.exists(p)],
            "own root": os.stat("/").st_ino,
            "open": len(os.listdir("/proc/self/fd")),
        }

    def hits(self) -> int:
        """How often somebody reached one of the listeners."""
        return len(select.select([self.unix, self.tcp], [], [], 0)[0])

    def close(self) -> None:
        """Give everything back."""
        self.process.kill()
        self.process.wait()
        self.unix.close()
        self.tcp.close()


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="session", autouse=True)
def _launcher_runs() -> None:
    """The launcher of this program is started now, not inside some test's count.

    What errors of earlier tests have kept open is closed now, too.
    """
    with Container.create(policy.plan()):
        pass
    sandbox_kernel.run("pass").check()
    gc.collect()


@pytest.fixture(autouse=True)
def canaries(tmp_path: Path) -> Iterator[Canaries]:
    """The canaries, which must not have noticed anything when the test is over."""
    folder = tmp_path / "host"
    folder.mkdir()
    made = Canaries(folder)
    try:
        made.before = made.snapshot()
        yield made
        after = made.snapshot()
        # What an earlier test has left may be closed meanwhile.
        assert after.pop("open") <= made.before.pop("open")
        assert after == made.before
        assert made.hits() == 0
    finally:
        made.close()


def read_all(descriptor: int, process: Process, timeout: float) -> tuple[str, Exit]:
    """Everything that comes until the run ends, at most MOST_OUTPUT bytes of it."""
    deadline = time.monotonic() + timeout
    chunks: list[bytes] = []
    size = 0
    ended: Exit | None = None
    while True:
        watched = [descriptor] if ended else [descriptor, process.fileno()]
        left = 0 if ended else max(0, deadline - time.monotonic())
        ready = select.select(watched, [], [], left)[0]
        if descriptor in ready:
            data = os.read(descriptor, 1 << 16)
            if data and size < MOST_OUTPUT:
                chunks.append(data)
                size += len(data)
            if data:
                continue
        if ended:
            return b"".join(chunks).decode(errors="replace"), ended
        if process.fileno() in ready:
            with contextlib.suppress(TimeoutError):
                ended = process.wait(0)
        elif descriptor in ready:
            ended = process.wait(max(0, deadline - time.monotonic()))
        elif not ready:
            raise TimeoutError(f"no end after {timeout} s; so far: {b''.join(chunks)[-2000:]!r}")


class Inside:
    """Starts code in containers."""

    def __init__(self, interpreter: str) -> None:
        self.interpreter = interpreter

    def specification(
        self, code: str, write: int, arguments: tuple[str, ...] = (), **more: object
    ) -> ProcessSpec:
        """How a piece of Python is run, with both its outputs in one pipe."""
        descriptors = {1: write, 2: write} | dict(more.pop("descriptors", {}))  # type: ignore[call-overload]
        argv = (self.interpreter, "-I", "-c", textwrap.dedent(code), *arguments)
        return ProcessSpec(argv=argv, descriptors=descriptors, **more)  # type: ignore[arg-type]

    def __call__(
        self,
        code: str,
        *arguments: str,
        timeout: float = 60,
        descriptors: dict[int, int] | None = None,
        user: str | None = None,
        argv: tuple[str, ...] | None = None,
        **options: object,
    ) -> Ran:
        """Run code in a fresh container with these options; the container is gone afterwards."""
        read, write = os.pipe()
        try:
            spec = self.specification(
                code, write, arguments, descriptors=descriptors or {}, user=user
            )
            if argv:
                spec = ProcessSpec(argv=argv, descriptors=spec.descriptors, user=user)
            with Container.create(policy.plan("command line", **options), process=spec) as made:
                os.close(write)
                write = -1
                assert made.process is not None
                output, ended = read_all(read, made.process, timeout)
            return Ran(output, ended)
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)

    def tell(self, code: str, *arguments: str, **options: Any) -> Any:
        """What the code gives to `tell(...)`; the code has the functions of PRELUDE."""
        ran = self(PRELUDE + textwrap.dedent(code), *arguments, **options)
        assert ran.exit.status == 0, ran
        return json.loads(ran.lines[-1])

    def run(
        self,
        held: Container,
        code: str,
        *arguments: str,
        timeout: float = 60,
        user: str | None = None,
    ) -> Ran:
        """Run code in a held container."""
        read, write = os.pipe()
        try:
            process = held.run(self.specification(code, write, arguments, user=user))
        finally:
            os.close(write)
        try:
            output, ended = read_all(read, process, timeout)
        finally:
            os.close(read)
            process.close()
        return Ran(output, ended)


@pytest.fixture(scope="session")
def inside() -> Inside:
    """inside(code, *argv, **plan options) -> Ran."""
    return Inside(sys.executable)


@pytest.fixture
def held() -> Iterator[Container]:
    """An empty container, held until the test is over."""
    with Container.create(policy.plan("command line", memory="256m")) as made:
        yield made


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled programs of tests/probes, static."""
    folder = tmp_path_factory.mktemp("probes")
    folder.chmod(0o755)
    for source in (Path(__file__).parents[1] / "probes").glob("*.c"):
        subprocess.run(
            ["/usr/bin/gcc", "-static", "-O1", "-o", folder / source.stem, source], check=True
        )
    return folder
