"""`python -m chaos [NAME=VALUE...]`: each seed's faults, and whether the rule held.

    SEEDS=20        as many seeds, from 1 on; or SEEDS=7-20
    SEED=7          this one alone
    SECONDS=15      how long the workload of a seed meets faults
    VERBOSE=1       what was done and said, also of seeds without findings

Root runs it, in a mount namespace with a runtime folder of its own. The status is 1 when a seed has
findings: each is printed with its seed and with what was done at each point before it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import leftovers
import made_images
import psutil

from chaos import rule
from chaos.crew import Crew
from chaos.faults import PIDS, Faults
from chaos.schedule import Point, points, work
from sandbox_kernel.image import archives
from sandbox_kernel.image.store import Store, places

READY_SECONDS = 60.0
GO_ON_SECONDS = 60.0
APART_SECONDS = 0.7
"""At least so long from one fault to the next, so that there is work that it can meet."""
DISK, INODES = "96m", 6000


class Outcome:
    """Of one seed: what was found, what was done, and how much work that met."""

    def __init__(self, seed: int, kinds: tuple[str, ...]) -> None:
        self.seed = seed
        self.kinds = kinds
        self.findings: list[str] = []
        self.did: list[str] = []
        self.said: list[str] = []
        self.steps = self.failed = self.saved = self.restarts = 0
        self.seconds = 0.0

    def __str__(self) -> str:
        return (
            f"seed {self.seed} ({', '.join(self.kinds)}): {len(self.findings)} findings; "
            f"{self.steps} steps, "
            f"{self.failed} of them failed, {self.restarts} programs started again, "
            f"{self.saved} saved, "
            f"{self.seconds:.0f} s"
        )

    def whole(self) -> str:
        """All that helps to understand a finding."""
        said = [f"{count} x {line}" for line, count in Counter(self.said).items()]
        lines = [*dict.fromkeys(self.findings), *self.did, *said]
        return "\n".join([str(self), *(f"  {line}" for line in lines)])


def run(seed: int, seconds: float, kinds: tuple[str, ...] = (), *, count: int = 9) -> Outcome:
    """One seed."""
    kinds = kinds or work(seed)
    outcome = Outcome(seed, kinds)
    began = time.monotonic()
    before = leftovers.take(leftovers.keeper_pid(), program=os.getpid())
    with _world(seed) as (disk, logs, group), _bystander() as stranger:
        crew = Crew(kinds, disk, logs, group)
        faults = Faults(disk, group)
        try:
            due = points(seed, kinds, count)
            outcome.findings += _workload(list(due), seconds, crew, faults)
        finally:
            faults.undo(now=True)
            crew.kill()
        outcome.findings += crew.wrong
        outcome.steps, outcome.failed = crew.steps, len(crew.failed)
        outcome.saved, outcome.restarts = len(crew.saved), crew.restarts
        damaged_list = any(path.endswith("index.json") for path in faults.damaged)
        outcome.findings += rule.lost(crew.saved, faults.excused, last_name=damaged_list)
        outcome.findings += rule.store_is_whole(faults.excused)
        outcome.findings += rule.next_start()
        outcome.did, outcome.said = faults.did, crew.failed
        for path in sorted(logs.glob("*.stderr")):
            outcome.said += [f"{path.stem} says: {line}" for line in path.read_text().splitlines()]
        if not stranger.is_running():
            outcome.findings.append("a stranger's process was ended")
    if group is not None and group.exists():
        outcome.findings.append(f"left: somebody in {group}")
    outcome.findings += rule.left(before)
    outcome.seconds = time.monotonic() - began
    return outcome


def _workload(waiting: list[Point], seconds: float, crew: Crew, faults: Faults) -> list[str]:
    """The faults while everybody works, and that everybody goes on without them."""
    late = crew.go_on(READY_SECONDS, steps=1)
    if late or crew.failed:
        return [f"before any fault: {line}" for line in (*late, *crew.failed)]
    first = crew.steps
    began = time.monotonic()
    count = len(waiting)
    last = 0.0
    while not crew.wrong and (waiting or time.monotonic() - began < seconds):
        crew.listen(min(0.2, faults.next_end()))
        faults.undo()
        # A workload that hardly gets on meets its faults all the same.
        now = time.monotonic()
        due = (now - began) / seconds * count
        reached = waiting and waiting[0].step <= crew.steps - first and now > last + APART_SECONDS
        if reached or (waiting and waiting[0].number <= due):
            faults.carry_out(waiting.pop(0))
            last = now
    faults.undo(now=True)
    if faults.damaged:
        faults.repair()
    return crew.go_on(GO_ON_SECONDS) + crew.end()


@contextlib.contextmanager
def _world(seed: int) -> Iterator[tuple[Path, Path, Path | None]]:
    """A small disk with a store and a layout on it, a folder for logs, a group of processes."""
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-chaos-", dir="/var/tmp") as name:
        logs, disk, other = Path(name, "logs"), Path(name, "disk"), Path(name, "other")
        logs.mkdir()
        disk.mkdir()
        Path(name).chmod(0o755)
        store = Store.open(str(other))
        made = made_images.small(store)
        group = PIDS / f"{leftovers.CHAOS}{os.getpid()}-{seed}" if PIDS.parent.is_dir() else None
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},nr_inodes={INODES},mode=755"]
        subprocess.run([*mount, "chaos", disk], check=True)
        try:
            if group is not None:
                group.mkdir(parents=True)
            archives.saving.save_layout(store, made, str(disk / "layout"), None)
            (disk / "says").write_bytes(made_images.program())
            (disk / "says").chmod(0o755)
            with _environment(str(disk / "images"), str(logs / "jupyter")):
                yield disk, logs, group
        finally:
            subprocess.run(["umount", disk], check=True)
            if group is not None:
                _remove_group(group)


@contextlib.contextmanager
def _environment(images: str, jupyter: str) -> Iterator[None]:
    """Of all that is started meanwhile: a store, and where Jupyter has its connection files."""
    before = dict(os.environ)
    os.environ.update({places.VARIABLE: images, "JUPYTER_RUNTIME_DIR": jupyter})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _remove_group(group: Path) -> None:
    """As soon as nobody is in it; if somebody stays, it stays too, which is a finding."""
    deadline = time.monotonic() + leftovers.SECONDS_TO_SETTLE
    while time.monotonic() < deadline:
        try:
            return group.rmdir()
        except OSError:
            time.sleep(0.05)  # the end of processes that are nobody's children can't be waited for
    return None


@contextlib.contextmanager
def _bystander() -> Iterator[psutil.Process]:
    """Somebody else's process, which no fault and no clean-up may reach."""
    stranger = psutil.Popen(["sleep", "3600"])
    try:
        yield stranger
    finally:
        stranger.kill()
        stranger.wait()


def main(words: list[str]) -> int:
    """The status."""
    if words[:1] != ["inside"]:
        return rule.in_own_namespace("chaos", words)
    leftovers.keep()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    given = {"SEEDS": "20", "SECONDS": "15", **dict(word.split("=", 1) for word in words[1:])}
    first, _, last = (given.get("SEED") or given["SEEDS"]).rpartition("-")
    seeds = [int(last)] if "SEED" in given else range(int(first or 1), int(last) + 1)
    bad = []
    for seed in seeds:
        outcome = run(seed, float(given["SECONDS"]))
        wanted = outcome.findings or "VERBOSE" in given
        print(outcome.whole() if wanted else outcome, flush=True)
        if outcome.findings:
            bad.append(seed)
            print(f"  again: make chaos SEED={seed}", flush=True)
    print(f"{len(list(seeds))} seeds, {len(bad)} with findings{': ' * bool(bad)}{bad or ''}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
