"""The programs of the workload: started, heard, counted, and started again when they ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

HERE = Path(__file__).resolve().parent
END_SECONDS = 45.0


class Worker:
    """One program, and what it said."""

    def __init__(
        self, kind: str, folder: Path, logs: Path, group: Path | None, environment: dict[str, str]
    ) -> None:
        self.kind = kind
        self.errors = open(logs / f"{kind}.stderr", "ab+")  # noqa: SIM115 - closed with it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chaos.work", kind, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment,
        )  # fmt: skip
        if group is not None:
            with contextlib.suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(self.process.pid))
        assert self.process.stdout
        os.set_blocking(self.process.stdout.fileno(), False)
        self._rest = b""

    def said(self) -> list[dict[str, Any]] | None:
        """What it said since it was asked last; None at its end."""
        assert self.process.stdout
        data = self.process.stdout.read()
        if data is None:
            return []
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if not data:
            return None
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Have it end by itself after the step that it is at."""
        assert self.process.stdin
        self.process.stdin.close()


class Crew:
    """All of them. `steps` counts what was done or failed, `done` by kind what was done."""

    def __init__(
        self, kinds: tuple[str, ...], folder: Path, logs: Path, group: Path | None
    ) -> None:
        self._places = (folder, logs, group)
        self._environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        self._selector = selectors.DefaultSelector()
        self.workers: dict[str, Worker] = {}
        self.steps = 0
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.saved: list[tuple[str, str, str]] = []
        self.restarts = 0
        for kind in kinds:
            self._start(kind)

    def _start(self, kind: str) -> None:
        worker = Worker(kind, *self._places, self._environment)
        self.workers[kind] = worker
        assert worker.process.stdout
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def listen(self, seconds: float, *, restart: bool = True) -> None:
        """Take in what they say for at most so long; who ended is started again."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            worker: Worker = key.data
            said = worker.said()
            if said is None:
                self._ended(worker, key.fileobj, restart=restart)
                continue
            for line in said:
                self._take(worker.kind, line)

    def _take(self, kind: str, line: dict[str, Any]) -> None:
        match line["kind"]:
            case "step":
                self.steps += 1
                self.done[kind] += 1
            case "failed":
                self.steps += 1
                self.failed.append(f"{kind}: {line['why']}")
                if "Traceback" in line["why"]:
                    self.wrong.append(f"{kind}: an error with a traceback: {line['why']}")
            case "wrong":
                self.steps += 1
                self.wrong.append(f"{kind}: {line['why']}\n{line['trace']}")
            case "saved":
                self.saved.append((line["what"], line["key"], line["value"]))

    def _ended(self, worker: Worker, stdout: BinaryIO, *, restart: bool) -> None:
        self._selector.unregister(stdout)
        stdout.close()
        status = worker.process.wait(END_SECONDS)
        assert worker.process.stdin
        worker.process.stdin.close()
        worker.errors.close()
        # libzmq, by which it speaks to kernels, aborts where it gets no thread.
        if status not in (0, -signal.SIGKILL, -signal.SIGABRT):
            self.wrong.append(f"{worker.kind}: ended with status {status}")
        if restart:
            self.restarts += 1
            self._start(worker.kind)
        else:
            del self.workers[worker.kind]

    def go_on(self, seconds: float, *, steps: int = 2) -> list[str]:
        """Everybody does so many whole steps from now on; who doesn't, and why, one line each."""
        before = Counter(self.done)
        deadline = time.monotonic() + seconds
        first_failure = len(self.failed)
        while time.monotonic() < deadline:
            waiting = [kind for kind in self.workers if self.done[kind] < before[kind] + steps]
            if not waiting or self.wrong:
                return []
            self.listen(1.0)
        since = self.failed[first_failure:]
        return [
            f"{kind} does not go on: "
            + next((line for line in reversed(since) if line.startswith(kind)), "it says nothing")
            for kind in waiting
        ]

    def end(self) -> list[str]:
        """All end by themselves; who doesn't, one line each, and is killed."""
        for worker in self.workers.values():
            worker.end()
        deadline = time.monotonic() + END_SECONDS
        while self.workers and time.monotonic() < deadline:
            self.listen(1.0, restart=False)
        found = [f"{kind} does not end" for kind in self.workers]
        self.kill()
        return found

    def kill(self) -> None:
        """Nobody is there afterwards."""
        for worker in list(self.workers.values()):
            worker.process.kill()
        while self.workers:
            self.listen(1.0, restart=False)
        self._selector.close()
