"""Carrying a fault out, and taking it back where it has an end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import leftovers
import psutil

from chaos.schedule import Point

NAMES = {
    "sandbox-launch": "launcher",
    "sandbox-maker": "maker",
    "sandbox-agent": "agent",
    "sandbox-network": "network",
    "sandbox-relay": "relay",
    "sandbox-relays": "relays",
}
STRACE = "/usr/bin/strace"
REPAIR = (sys.executable, "-m", "sandbox_kernel.cli.main", "image", "repair")
RUNTIME = Path("/run/sandbox-kernel")
PIDS = Path("/sys/fs/cgroup/pids/sandbox-kernel")
AWAITED_SECONDS = 1.0
SPARE_DESCRIPTORS = 2


class Faults:
    """Those of one seed. `undo` what is due; `end` all of it."""

    def __init__(self, store: Path, group: Path | None) -> None:
        self._store = store
        self._group = group
        self._later: list[tuple[float, Callable[[], object]]] = []
        self.did: list[str] = []
        """What came of each point, one line each."""
        self.damaged: list[str] = []
        """What of the store was damaged: the paths."""
        self.excused: set[str] = set()
        """Images that lack something by that, as `repair` says."""

    def carry_out(self, point: Point) -> None:
        """Do what is due at a point. Where there is nobody to do it to, it says so."""
        try:
            what = getattr(self, "_" + point.fault.replace(" ", "_"))(point)
        except (psutil.Error, FileNotFoundError, ProcessLookupError) as error:
            what = f"too late: {error}"
        self.did.append(f"{point}: {what}")

    def next_end(self) -> float:
        """Seconds until something has to be taken back."""
        now = time.monotonic()
        return min((when - now for when, _ in self._later), default=60.0)

    def undo(self, *, now: bool = False) -> None:
        """Take back whose time is over."""
        moment = time.monotonic()
        due = [each for each in self._later if now or each[0] <= moment]
        self._later = [each for each in self._later if each not in due]
        for _, back in due:
            with contextlib.suppress(psutil.Error, FileNotFoundError):
                back()

    def _after(self, seconds: float, back: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + seconds, back))

    # -- processes

    def _one(self, point: Point) -> psutil.Process:
        deadline = time.monotonic() + AWAITED_SECONDS
        while not (found := list(processes(point.at))):
            if time.monotonic() > deadline:
                raise ProcessLookupError(f"there is no {point.at} now")
        return found[point.nth % len(found)]

    def _kill(self, point: Point) -> str:
        process = self._one(point)
        process.kill()
        return f"killed {process.pid}"

    def _stop(self, point: Point) -> str:
        process = self._one(point)
        process.suspend()
        self._after(point.seconds, lambda: process.is_running() and process.resume())
        return f"stopped {process.pid}"

    def _traced(self, point: Point, how: str) -> str:
        """The system calls of a process, those of its threads and of what it starts, counted."""
        process = self._one(point)
        words = ["-qq", "-f", "-o", "/dev/null", "-p", str(process.pid)]
        inject = f"inject={point.calls}:{how}:when={point.nth}"
        tracer = subprocess.Popen(
            [STRACE, *words, "-e", f"trace={point.calls}", "-e", inject],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._after(point.seconds, lambda: _end(tracer))
        return f"watched {process.pid}"

    def _kill_at(self, point: Point) -> str:
        return self._traced(point, "signal=SIGKILL")

    def _delay(self, point: Point) -> str:
        return self._traced(point, "delay_enter=300000")

    def _fail(self, point: Point) -> str:
        return self._traced(point, f"error={point.error}")

    # -- resources

    def _fill(self, point: Point) -> str:
        return str(getattr(self, f"_fill_{point.at}")(point))

    def _fill_disk(self, point: Point) -> str:
        path = self._store / "filled"
        self._after(point.seconds, path.unlink)
        with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 9))
        return f"{path.stat().st_size >> 20} MiB until it was full"

    def _fill_inodes(self, point: Point) -> str:
        folder = self._store / "filled"
        folder.mkdir()
        made = 0
        with contextlib.suppress(OSError):
            while True:
                (folder / str(made)).touch()
                made += 1

        def back() -> None:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

        self._after(point.seconds, back)
        return f"{made} files until it was full"

    def _fill_pids(self, point: Point) -> str:
        if self._group is None:
            return "no controller of pids here"
        limit = self._group / "pids.max"
        there = (self._group / "pids.current").read_text().strip()
        limit.write_text(there)
        self._after(point.seconds, lambda: limit.write_text("max"))
        return f"at {there} processes"

    def _fill_descriptors(self, point: Point) -> str:
        usual: dict[str, tuple[int, int]] = {}
        changed = 0
        for kind in ("launcher", "worker", "network"):
            for process in processes(kind):
                with contextlib.suppress(psutil.Error):
                    before = process.rlimit(psutil.RLIMIT_NOFILE)
                    most = max((int(n) for n in os.listdir(f"/proc/{process.pid}/fd")), default=0)
                    low = (min(most + SPARE_DESCRIPTORS, before[0]), before[1])
                    process.rlimit(psutil.RLIMIT_NOFILE, low)
                    usual[kind] = max(before, usual.get(kind, before))
                    changed += 1

        def back() -> None:
            # Also to those that were started meanwhile, who inherited the low limit.
            for kind, limits in usual.items():
                for process in processes(kind):
                    with contextlib.suppress(psutil.Error):
                        process.rlimit(psutil.RLIMIT_NOFILE, limits)

        self._after(point.seconds, back)
        return f"in {changed} processes"

    # -- files

    def _damage(self, point: Point) -> str:
        store = self._store / "images"
        chance = random.Random(point.nth)
        blobs = sorted(store.glob("blobs/sha256/*"))
        launchers = sorted((RUNTIME / "launchers").glob("*"))
        match point.at:
            case "a bit of a blob":
                return self._change(chance, blobs, _flip)
            case "the end of a blob":
                return self._change(chance, blobs, lambda data: data[:-1])
            case "a blob emptied":
                return self._change(chance, blobs, lambda data: b"")
            case "the list of images":
                return self._change(
                    chance, [store / "index.json"], lambda data: data[: -len(data) // 2]
                )
            case "the facts of a layer":
                return self._change(chance, sorted(store.glob("layers/*/facts")), _flip)
            case "the name of the warm holder":
                return self._change(chance, sorted(RUNTIME.glob("holder-*")), _flip)
            case "the lock of a launcher removed":
                return _remove(chance, [path / "lock" for path in launchers])
            case "the socket of a launcher removed":
                return _remove(chance, [path / "control.sock" for path in launchers])
            case "the folder of a launcher removed":
                return _remove(chance, launchers)
            case "the lock of ids removed":
                return _remove(chance, sorted((RUNTIME / "ids").glob("*")))
            case "the socket of the network removed":
                return _remove(chance, sorted(RUNTIME.glob("networks/*/socket")))
        raise ValueError(point.at)

    def _change(
        self, chance: random.Random, paths: list[Path], change: Callable[[bytes], bytes]
    ) -> str:
        """In place, as a disk does it."""
        if not paths:
            return "there is none now"
        path = chance.choice(paths)
        data = change(path.read_bytes())
        with open(path, "r+b") as file:
            file.write(data)
            file.truncate()
        if path.is_relative_to(self._store):
            self.damaged.append(str(path))
            self._after(1.0, self.repair)
        return f"changed {path.name}"

    def repair(self) -> None:
        """What a user does who reads that something of the store is damaged."""
        done = subprocess.run(
            [*REPAIR, "--format", "json"], capture_output=True, text=True, check=False
        )
        self.did.append(f"repair: status {done.returncode}: {done.stdout}{done.stderr}".strip())
        if done.stdout:
            self.excused |= {name for each in json.loads(done.stdout) for name in each["images"]}


def processes(role: str) -> Iterator[psutil.Process]:
    """Those of the workload that have a role, in the order of their numbers."""
    me = os.getpid()
    for process in sorted(
        psutil.Process(leftovers.keeper_pid()).children(recursive=True), key=lambda each: each.pid
    ):
        with contextlib.suppress(psutil.Error, FileNotFoundError, ProcessLookupError):
            if process.pid != me and _is(process, role):
                yield process


def _is(process: psutil.Process, role: str) -> bool:
    spaces = _numbers(process.pid)
    if len(spaces) > 1:
        return role == ("pid 1" if spaces[-1] == "1" else "payload")
    name = Path(f"/proc/{process.pid}/comm").read_text().strip()
    if name in NAMES:
        return role == NAMES[name]
    words = process.cmdline()
    if "chaos.work" in words:
        return role == "worker" or role in words
    if "sandbox_kernel" in words:
        return role == "relay"
    return role == "layers" and any("layers.worker" in word for word in words)


def _numbers(pid: int) -> list[str]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[1:]
    return []


def _flip(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 4
    return bytes(changed)


def _remove(chance: random.Random, paths: list[Path]) -> str:
    there = [path for path in paths if path.exists()]
    if not there:
        return "there is none now"
    path = chance.choice(there)
    if path.is_dir():
        for below in path.iterdir():
            with contextlib.suppress(OSError):
                below.rmdir() if below.is_dir() else below.unlink()
        with contextlib.suppress(OSError):  # something is mounted there
            path.rmdir()
    else:
        path.unlink()
    return f"removed {path.parent.name}/{path.name}"


def _end(tracer: subprocess.Popen[bytes]) -> None:
    """It lets go of whom it follows."""
    tracer.send_signal(signal.SIGTERM)
    try:
        tracer.wait(5)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()
