"""`python -m chaos [NAME=VALUE...]`: each seed's faults, and whether the rule held.

    SEEDS=20        as many seeds, from 1 on
    SEED=7          this one alone
    SECONDS=15      how long the workload of a seed meets faults
    VERBOSE=1       what was done and said, also of seeds without findings

Root runs it, in a mount namespace with a runtime folder of its own. The status is 1 when a seed has
findings: each is printed with its seed and with what was done at each point before it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import leftovers  # noqa: E402 - beside this folder
import made_images  # noqa: E402
import psutil  # noqa: E402

from chaos import rule  # noqa: E402
from chaos.crew import Crew  # noqa: E402
from chaos.faults import PIDS, RUNTIME, Faults  # noqa: E402
from chaos.schedule import points  # noqa: E402
from sandbox_kernel.image import archives  # noqa: E402
from sandbox_kernel.image.store import Store, places  # noqa: E402

EVERYBODY = ("fresh", "held", "network", "images", "kernel", "warm", "carry")
READY_SECONDS = 60.0
GO_ON_SECONDS = 60.0
APART_SECONDS = 0.7
"""At least so long from one fault to the next, so that there is work that it can meet."""
DISK = "96m"


class Outcome:
    """Of one seed: what was found, what was done, and how much work that met."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.findings: list[str] = []
        self.did: list[str] = []
        self.said: list[str] = []
        self.steps = self.failed = self.saved = self.restarts = 0
        self.seconds = 0.0

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {len(self.findings)} findings; {self.steps} steps, "
            f"{self.failed} of them failed, {self.restarts} programs started again, "
            f"{self.saved} saved, "
            f"{self.seconds:.0f} s"
        )

    def whole(self) -> str:
        """All that helps to understand a finding."""
        said = [f"{count} x {line}" for line, count in Counter(self.said).items()]
        lines = [*dict.fromkeys(self.findings), *self.did, *said]
        return "\n".join([str(self), *(f"  {line}" for line in lines)])


def run(
    seed: int, seconds: float, kinds: tuple[str, ...] = EVERYBODY, *, count: int = 9
) -> Outcome:
    """One seed."""
    outcome = Outcome(seed)
    began = time.monotonic()
    before = leftovers.take(leftovers.keeper_pid(), program=os.getpid())
    with _world() as (disk, logs, group), _bystander() as stranger:
        crew = Crew(kinds, disk, logs, group)
        faults = Faults(disk, group)
        try:
            outcome.findings += _workload(seed, seconds, crew, faults, count)
        finally:
            faults.undo(now=True)
            crew.kill()
        outcome.findings += crew.wrong
        outcome.steps, outcome.failed = crew.steps, len(crew.failed)
        outcome.saved, outcome.restarts = len(crew.saved), crew.restarts
        damaged_list = any(path.endswith("index.json") for path in faults.damaged)
        outcome.findings += rule.lost(crew.saved, faults.excused, last_name=damaged_list)
        outcome.findings += rule.store_is_whole()
        outcome.findings += rule.next_start()
        outcome.did, outcome.said = faults.did, crew.failed
        for path in sorted(logs.glob("*.stderr")):
            outcome.said += [f"{path.stem} says: {line}" for line in path.read_text().splitlines()]
        if not stranger.is_running():
            outcome.findings.append("a stranger's process was ended")
    outcome.findings += rule.left(before)
    outcome.seconds = time.monotonic() - began
    return outcome


def _workload(seed: int, seconds: float, crew: Crew, faults: Faults, count: int) -> list[str]:
    """The faults while everybody works, and that everybody goes on without them."""
    late = crew.go_on(READY_SECONDS, steps=1)
    if late or crew.failed:
        return [f"before any fault: {line}" for line in (*late, *crew.failed)]
    first = crew.steps
    began = time.monotonic()
    waiting = list(points(seed, count))
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
def _world() -> Iterator[tuple[Path, Path, Path | None]]:
    """A small disk with a store and a layout on it, a folder for logs, a group of processes."""
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-chaos-", dir="/var/tmp") as name:
        logs, disk, other = Path(name, "logs"), Path(name, "disk"), Path(name, "other")
        logs.mkdir()
        disk.mkdir()
        Path(name).chmod(0o755)
        store = Store.open(str(other))
        made = made_images.small(store)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "chaos", disk], check=True
        )
        group = PIDS / f"chaos-{os.getpid()}" if PIDS.parent.is_dir() else None
        if group is not None:
            group.mkdir(parents=True)
        kept = os.environ.get(places.VARIABLE)
        os.environ[places.VARIABLE] = str(disk / "images")
        os.environ["JUPYTER_RUNTIME_DIR"] = str(logs / "jupyter")
        try:
            archives.saving.save_layout(store, made, str(disk / "layout"), None)
            yield disk, logs, group
        finally:
            if kept is None:
                del os.environ[places.VARIABLE]
            else:
                os.environ[places.VARIABLE] = kept
            del os.environ["JUPYTER_RUNTIME_DIR"]
            subprocess.run(["umount", disk], check=True)
            if group is not None:
                _remove_group(group)


def _remove_group(group: Path) -> None:
    """As soon as nobody is in it; who stays there is found as left."""
    deadline = time.monotonic() + leftovers.SECONDS_TO_SETTLE
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)  # the end of processes that are nobody's children can't be waited for
    with contextlib.suppress(OSError):
        group.rmdir()


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
    if os.geteuid() != 0:
        print("chaos: run it as root: it mounts a small disk to fill up", file=sys.stderr)
        return 2
    if words[:1] != ["inside"]:
        mount = f'mkdir -p {RUNTIME} && mount -t tmpfs -o mode=700 chaos {RUNTIME} && exec "$@"'
        argv = [sys.executable, "-m", "chaos", "inside", *words]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", mount, "chaos", *argv],
            env={**os.environ, "PYTHONPATH": str(HERE.parent)}, check=False,
        ).returncode  # fmt: skip
    leftovers.keep()
    given = {"SEEDS": "20", "SECONDS": "15", **dict(word.split("=", 1) for word in words[1:])}
    seeds = [int(given["SEED"])] if "SEED" in given else range(1, int(given["SEEDS"]) + 1)
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
