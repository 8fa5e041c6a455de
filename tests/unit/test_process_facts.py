"""What is asked of a process in one go is what /proc says one by one."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import process_facts, processes
from sandbox_kernel.linux.process_facts import Shared


@contextlib.contextmanager
def a_process(prepare: Callable[[], object] = lambda: None) -> Iterator[int]:
    """A fork that has prepared itself and waits for its end."""
    ready, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kept = prepare()
            os.write(said, b"." if kept is None else b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(said)
    try:
        assert os.read(ready, 1)
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def namespaces() -> Iterator[dict[str, int]]:
    opened = {
        kind: os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
        for kind, name in processes.FILE_OF_NAMESPACE.items()
        if os.path.exists(f"/proc/self/ns/{name}")
    }
    yield opened
    for descriptor in opened.values():
        os.close(descriptor)


def lasting(status: bytes) -> list[bytes]:
    """What does not change while a process falls asleep."""
    passing = (b"State:", b"Vm", b"Rss", b"voluntary_", b"nonvoluntary_")
    return [line for line in status.splitlines() if not line.startswith(passing)]


def test_files_namespaces_and_descriptors(namespaces: dict[str, int]) -> None:
    with a_process(lambda: os.dup2(1, 5)) as pid:
        facts = process_facts.look(pid, namespaces)
        assert lasting(facts.status) == lasting(Path(f"/proc/{pid}/status").read_bytes())
        assert facts.groups == Path(f"/proc/{pid}/cgroup").read_bytes()
        assert facts.differing == ()
        assert {*facts.open} == {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        assert facts.devices == tuple(
            os.stat(f"/proc/{pid}/fd/{number}").st_rdev for number in range(3)
        )


def test_another_namespace_is_named(namespaces: dict[str, int]) -> None:
    flags = processes.CLONE_NEWUSER | processes.CLONE_NEWUTS
    with a_process(lambda: processes.unshare(flags)) as pid:
        assert {*process_facts.look(pid, namespaces).differing} == {"user", "uts"}


def test_who_has_no_descriptors_is_an_error(namespaces: dict[str, int]) -> None:
    with a_process(lambda: os.close(0)) as pid, pytest.raises(StepFailed, match="look at"):
        process_facts.look(pid, namespaces)


def test_who_is_gone_is_an_error(namespaces: dict[str, int]) -> None:
    with a_process() as pid:
        pass
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=str(pid)):
        process_facts.look(pid, namespaces)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("by_text", [False, True])
def test_shared_memory_is_found_and_private_memory_is_not(by_text: bool, tmp_path: Path) -> None:
    file, gone = tmp_path / "a file", tmp_path / "gone"
    file.write_bytes(b"x" * 4096)
    gone.write_bytes(b"x" * 4096)

    def found(pid: int) -> list[Shared]:
        if by_text:
            return process_facts.parsed(Path(f"/proc/{pid}/maps").read_bytes())
        return process_facts.shared_memory(pid)

    def prepare() -> object:
        both = os.open(file, os.O_RDWR), os.open(gone, os.O_RDWR)
        gone.unlink()
        return [
            mmap.mmap(-1, 8192),
            mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE),
            mmap.mmap(both[0], 4096, prot=mmap.PROT_READ),
            mmap.mmap(both[0], 4096, flags=mmap.MAP_PRIVATE),
            mmap.mmap(both[1], 4096),
        ]

    with a_process() as pid:
        before = found(pid)
    with a_process(prepare) as pid:
        after = found(pid)
    more = [one for one in after if one not in before]
    device = file.stat().st_dev
    assert [one for one in more if one.device == device] == [
        one for one in more if one.path.startswith(str(tmp_path))
    ]
    assert {(one.path, one.writable) for one in more} == {
        ("/dev/zero (deleted)", True),
        (str(file), False),
        (f"{gone} (deleted)", True),
    }
