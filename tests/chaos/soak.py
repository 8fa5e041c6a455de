"""`python -m chaos.soak [SECONDS=7200]`: hostile and normal cells for long; what leaks, who waits.

`SECONDS=300` is the form of five minutes. `tests/integration/test_chaos.py` has one of less than a
minute, which looks for what leaks and what is dropped.

Two programs run cells, one normal and one hostile. The hostile ones have limits that leave the
others a processor: one `cpuset`, in which their program is too, since it reads what they write.
It rests now and then, so that the time that a normal cell takes beside it is compared with that of
cells of the same minute without it, whatever else the machine does.

Counted at some of the rests, for both programs and their launchers: descriptors, memory (PSS),
processes, mounts, control groups. The status is 1 when a normal cell failed, when a counter grew
from the first quarter to the end, or when the median beside the hostile cells is more than 1.5 of
that at rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple

import leftovers
import psutil

import sandbox_kernel
from chaos import rule
from sandbox_kernel import errors
from sandbox_kernel.runtime import client

MOST_RATIO = 1.5
ROUND_SECONDS, REST_SECONDS = 20.0, 10.0
COUNT_EVERY, AGAIN_SECONDS = 3, 3.0
"""Rounds between two counts, before which nothing is kept ready; how long the pool fills then."""
SECONDS_TO_END = 30
"""For what the last cells left, before it is counted: a leak is there after that too."""
GROWTH = {"descriptors": 2, "PSS in KiB": 4096, "processes": 1, "mounts": 2, "groups": 2}
"""How much more than in the first quarter is none."""
LIMITS = {"memory": "128m", "pids_limit": 48, "timeout": "1s", "cpuset_cpus": "0"}
HOSTILE = {
    "forks": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "computes": "while True: pass",
    "eats": "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
    "writes": "while True: print('x' * 1000)",
    "fills": "f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "opens": "import os\nwhile True: os.open('/dev/null', 0)",
    "leaves": (
        "import os, signal, time\nfor s in range(1, 32):\n"
        "    if s not in (9, 19): signal.signal(s, signal.SIG_IGN)\n"
        "if os.fork(): time.sleep(600)\nos.setsid()\ntime.sleep(600)"
    ),
    "breaks": "import ctypes\nctypes.string_at(0)",
    "says": "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'{}' * 5000)\n"
    "    except OSError: pass",
}


class Counted(NamedTuple):
    """What a program and its launcher hold at one moment."""

    counts: dict[str, int]

    @classmethod
    def of(cls, pid: int) -> Counted:
        """A program that has a moment of rest, with all below it."""
        program = psutil.Process(pid)
        below = program.children()
        everybody = program.children(recursive=True)
        launcher = [each for each in below if each.name() == "sandbox-launch"]
        names = [Path(f"/proc/{each.pid}/cmdline").read_text().split("\0") for each in launcher]
        marks = {word for words in names for word in words if len(word) == 16}
        return cls(
            {
                "descriptors": sum(each.num_fds() for each in (program, *launcher)),
                "PSS in KiB": sum(_pss(each.pid) for each in (program, *launcher)),
                "processes": len(everybody),
                "mounts": sum(_lines(f"/proc/{each.pid}/mountinfo") for each in launcher),
                "groups": sum(any(mark in name for mark in marks) for name in leftovers._groups()),
            }
        )


class Program:
    """A program of cells that goes and rests as it is told."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chaos.soak", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )  # fmt: skip

    def go(self, seconds: float) -> None:
        """Run cells for so long."""
        self._pipe(self.process.stdin).write(f"{seconds}\n")
        self._pipe(self.process.stdin).flush()

    def rested(self) -> dict[str, list[float]]:
        """When it rests again: seconds of each cell, by kind; negative when it failed."""
        found: dict[str, list[float]] = json.loads(self._pipe(self.process.stdout).readline())
        return found

    def end(self) -> None:
        """It ends by itself."""
        self.process.communicate(timeout=60)

    @staticmethod
    def _pipe(opened: IO[str] | None) -> IO[str]:
        assert opened is not None
        return opened


def work(kind: str) -> None:
    """The program itself: a line tells how long to go, a line says what came of it.

    To go for no time is to let go of what is kept ready, so that all that is left can be counted.
    """
    if kind == "hostile":
        os.sched_setaffinity(0, {0})
    number = 0
    for line in sys.stdin:
        end = time.monotonic() + float(line)
        if float(line) == 0:
            client.stop_pool()
            while client.shared().pool() and time.monotonic() < end + SECONDS_TO_END:
                time.sleep(0.01)  # the containers of the last cells are being put away
        took: dict[str, list[float]] = {}
        while time.monotonic() < end:
            number += 1
            begin = time.monotonic()
            name, right = _hostile(number) if kind == "hostile" else _normal(number)
            seconds = time.monotonic() - begin
            took.setdefault(name, []).append(seconds if right else -seconds)
            if kind == "normal":
                select.select([], [], [], 0.05)  # a person is never this quick
        print(json.dumps(took), flush=True)
    client.end_shared()


def _normal(number: int) -> tuple[str, bool]:
    try:
        found = sandbox_kernel.run(f"print(sum(range({number})))", memory="128m").check()
    except errors.SandboxError as error:
        print(f"a normal cell failed: {error}", file=sys.stderr, flush=True)
        return "normal", False
    return "normal", found.stdout == f"{sum(range(number))}\n"


def _hostile(number: int) -> tuple[str, bool]:
    name = list(HOSTILE)[number % len(HOSTILE)]
    with contextlib.suppress(errors.SandboxError):
        sandbox_kernel.run(HOSTILE[name], **LIMITS, output_limit="1m")
    return name, True


def main(words: list[str]) -> int:
    """The status."""
    if words[:1] != ["inside"]:
        return rule.in_own_namespace("chaos.soak", words)
    leftovers.keep()
    given = {"SECONDS": "7200", **dict(word.split("=", 1) for word in words[1:])}
    outcome = run(float(given["SECONDS"]))
    outcome.show()
    return int(bool(outcome.findings))


class Outcome(NamedTuple):
    """What a run found: seconds of normal cells, how many hostile ones, what leaked."""

    quiet: list[float]
    beside: list[float]
    cells: dict[str, int]
    counted: list[tuple[Counted, Counted]]
    leaks: list[str]
    """And what was dropped: one line each."""

    @property
    def ratio(self) -> float:
        """Of the medians of a normal cell: beside hostile ones to at rest."""
        return statistics.median(self.beside) / statistics.median(self.quiet)

    @property
    def findings(self) -> list[str]:
        """All that is against the promise, the time of the neighbours too."""
        slow = f"normal cells take {self.ratio:.2f} of their time at rest, at most {MOST_RATIO}"
        return [*self.leaks, *([slow] if self.ratio > MOST_RATIO else [])]

    def show(self) -> None:
        """Print it."""
        _print(self.quiet, self.beside, self.cells, self.counted)
        found = "\n".join(["", *self.findings])
        print(found if self.findings else "nothing leaked, nothing was dropped")


def run(seconds: float, *, rest: float = REST_SECONDS, busy: float = ROUND_SECONDS) -> Outcome:
    """Rounds of so many seconds at rest and busy until the time is over."""
    before = leftovers.take(leftovers.keeper_pid(), program=os.getpid())
    normal, hostile = Program("normal"), Program("hostile")
    quiet: list[float] = []
    beside: list[float] = []
    cells: dict[str, int] = {}
    counted: list[tuple[Counted, Counted]] = []
    rounds = 0
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            normal.go(rest)
            quiet += normal.rested()["normal"]
            hostile.go(busy)
            normal.go(busy - 1)
            beside += normal.rested()["normal"]
            for name, took in hostile.rested().items():
                cells[name] = cells.get(name, 0) + len(took)
            rounds += 1
            if rounds % COUNT_EVERY == 1:
                counted.append(_count(normal, hostile))
        counted.append(_count(normal, hostile))
        normal.end()
        hostile.end()
    finally:
        for program in (normal, hostile):
            program.process.kill()
    leaks = _leaks(quiet, beside, counted) + rule.left(before)
    return Outcome(quiet, beside, cells, counted, leaks)


def _count(normal: Program, hostile: Program) -> tuple[Counted, Counted]:
    found = []
    for program in (normal, hostile):
        program.go(0)
        program.rested()
        found.append(Counted.of(program.process.pid))
    for program in (normal, hostile):
        program.go(AGAIN_SECONDS)
        program.rested()
    return found[0], found[1]


def _leaks(
    quiet: list[float], beside: list[float], counted: list[tuple[Counted, Counted]]
) -> list[str]:
    found = [f"{n} normal cells failed" for n in [sum(s < 0 for s in quiet + beside)] if n]
    quarter = counted[: max(1, len(counted) // 4)]
    for which, program in enumerate(("normal", "hostile")):
        for name, more in GROWTH.items():
            first = max(pair[which].counts[name] for pair in quarter)
            last = min(pair[which].counts[name] for pair in counted[-len(quarter) :])
            if last > first + more:
                found.append(f"{name} of the {program} program grew from {first} to {last}")
    return found


def _print(
    quiet: list[float],
    beside: list[float],
    cells: dict[str, int],
    counted: list[tuple[Counted, Counted]],
) -> None:
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{len(quiet) + len(beside)} normal cells, {sum(cells.values())} hostile ones: "
          + ", ".join(f"{name} {n}" for name, n in cells.items()))  # fmt: skip
    for name, took in (("at rest", quiet), ("beside hostile cells", beside)):
        ms = sorted(1000 * abs(each) for each in took)
        print(f"a normal cell {name}: median {statistics.median(ms):.1f} ms, "
              f"95 of 100 in {ms[len(ms) * 95 // 100]:.1f} ms")  # fmt: skip
    print(f"ratio of the medians: {statistics.median(beside) / statistics.median(quiet):.2f}")
    for which, program in enumerate(("normal", "hostile")):
        first, last = counted[0][which].counts, counted[-1][which].counts
        print(f"{program}: " + ", ".join(f"{name} {first[name]} to {last[name]}" for name in first))
    print(f"load of the machine: {load}")


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _lines(path: str) -> int:
    return len(Path(path).read_text().splitlines())


if __name__ == "__main__":
    if sys.argv[1:] in (["normal"], ["hostile"]):
        work(sys.argv[1])
    else:
        sys.exit(main(sys.argv[1:]))
