"""A fresh container for a cell, numpy imported: alone, in a loop, from two callers, on and on.

Each run of ours is checked while it is measured: another container, another pid namespace, the
limits read back, and no file of the run before.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from benchmarks import containers, docker, kernels
from benchmarks.pairs import Amounts, Pair, Size, measure, shown
from sandbox_kernel import engine, image, policy
from sandbox_kernel.container import Container
from sandbox_kernel.container import events as e
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.runtime import client

SUM = "import numpy\nprint(numpy.arange(10).sum())"
CODE = f"""{SUM}
open("/tmp/marker", "x").close()"""
"""What the peer does, and no file of the run before may be there, or this ends with an error."""
MANY, HELD = 10_000, 100
CELLS_BETWEEN = 10
"""So many, and then the peer once."""
MORE_SLOTS = 4
MOST_MISSED = 0.01
SECONDS_TO_SETTLE = 0.1
MOST_SECONDS_TO_REFILL = 60.0
MOST_OF_STRICT = 2
"""Of the time of the same cell without `--strict`."""
CELLS = [*kernels.SANDBOX[:3], "--cells", *kernels.SANDBOX[3:]]


class Fresh:
    """Runs cells, and knows which containers and namespaces there were."""

    def __init__(self, *, strict: bool = False) -> None:
        self.plan = policy.plan(
            "program", warm=["numpy"], memory="256m", pids_limit=64, strict=strict
        )
        self.request = CellRequest(code=CODE)
        self.seen: set[str] = set()
        self.namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        """Of the last run. As long as it is open, no other namespace can have its number."""
        self.missed = 0
        """Runs whose namespace was gone before it could be held."""
        self.turn = threading.Lock()

    def __call__(self) -> None:
        run = engine.start(self.plan, self.request)
        container = run.container
        try:
            namespace = os.open(f"/proc/{container.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            namespace = -1  # it is over before we could look
        events = list(run)
        assert not [event for event in events if isinstance(event, e.Error)], events
        text = "".join(event.text for event in events if isinstance(event, e.Stdout))
        assert text == "45\n", text
        assert container.limits_at_start["memory"] == 256 << 20
        assert container.limits_at_start["pids_limit"] == 64
        assert container.id not in self.seen
        self.seen.add(container.id)
        with self.turn:
            if namespace < 0:
                self.missed += 1
                assert self.missed <= 1 + MOST_MISSED * len(self.seen), self.missed
                return
            assert not os.path.samestat(os.fstat(namespace), os.fstat(self.namespace))
            os.close(self.namespace)
            self.namespace = namespace

    def warm(self) -> None:
        """Asks often enough for a template to be worth its start, and waits for it."""
        for _ in range(4):
            self()
        self.ready()

    def ready(self) -> None:
        """Until a container waits, of each kind that is kept ready. Raises TimeoutError."""
        end = time.monotonic() + MOST_SECONDS_TO_REFILL
        while not (kinds := client.shared().pool()) or not all(kind["ready"] for kind in kinds):
            if time.monotonic() > end:
                raise TimeoutError(f"the pool is not ready: {kinds}")
            time.sleep(0.002)

    def settled(self) -> None:
        """The same, and until what the last run left, of ours or of docker, is put away: a single
        run is not to be measured beside the end of another. In the loops below, it is."""
        self.ready()
        time.sleep(SECONDS_TO_SETTLE)


def rows(rounds: int) -> Iterator[Pair | Amounts | Size]:
    """The rows of this module."""
    fresh = Fresh()
    fresh.warm()
    shown = image.resolve("host").expanded()
    python = [sys.executable, "-c", SUM]
    bwrap = _quiet([*containers.bwrap(shown)[:-1], *python])
    with docker.engine() as engine_of_docker:
        if engine_of_docker:
            yield measure(
                "fresh container, numpy imported, prints a sum: pool ready",
                fresh,
                "docker run",
                _quiet(docker.run(engine_of_docker, shown, python)),
                bound=1 / 100,
                rounds=rounds,
                check=fresh.settled,
            )
            yield from _with_all_walls(
                fresh, _quiet(docker.run(engine_of_docker, shown, python)), rounds
            )
            yield from _held(engine_of_docker, shown)
    yield measure(
        "the same, one after another in a loop, refill included",
        lambda: _times(fresh, 20),
        "20 x bwrap python",
        lambda: _times(bwrap, 20),
        bound=1 / 8,
        rounds=max(3, rounds // 8),
        warm=1,
    )
    yield measure(
        "the same from two callers at once",
        lambda: _from_two(fresh, 20),
        "40 x bwrap python",
        lambda: _times(bwrap, 40),
        bound=1 / 12,
        rounds=max(3, rounds // 8),
        warm=1,
    )
    walls = _silent(containers.bwrap(shown))
    yield from _for_ever(fresh, walls, MANY if rounds >= 40 else 500)
    yield _empty_cell(rounds)


def _with_all_walls(fresh: Fresh, peer: Callable[[], None], rounds: int) -> Iterator[Pair]:
    """The same cell with `strict`, by the same bound; and beside ours without, what that costs."""
    strict = Fresh(strict=True)
    client.stop_pool()  # of a kind that nobody asks for none is ready after a minute
    strict.warm()
    what = "the same with `--strict`"
    yield measure(
        what, strict, "docker run", peer, bound=1 / 100, rounds=rounds, check=strict.settled
    )
    fresh.warm()
    yield measure(
        what, strict, "without", fresh, bound=MOST_OF_STRICT, rounds=rounds, check=strict.ready
    )
    client.stop_pool()  # what follows is measured with one kind alone
    fresh.warm()


def _quiet(argv: list[str]) -> Callable[[], None]:
    def run() -> None:
        done = subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        assert done.stdout == b"45\n", done

    return run


def _silent(argv: list[str]) -> Callable[[], None]:
    def run() -> None:
        # posix_spawn copies nothing of us, who grow while we count what took how long.
        _, status = os.waitpid(os.posix_spawn(argv[0], argv, {}), 0)
        assert status == 0, (argv, status)

    return run


def _times(work: Callable[[], None], count: int) -> None:
    for _ in range(count):
        work()


def _from_two(work: Callable[[], None], count: int) -> None:
    failed: list[BaseException] = []

    def many() -> None:
        try:
            _times(work, count)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=many) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def _held(command: list[str], shown: image.Image) -> Iterator[Pair | Amounts]:
    """Containers that only hold themselves, all at once, and the memory of all who hold them.

    Of docker count the daemons, the shims and the program that each container must have; of ours
    the launcher and all that is below it.
    """
    plan = policy.plan("program", memory="256m", pids_limit=64)

    @contextmanager
    def ours() -> Iterator[None]:
        held = [Container.create(plan) for _ in range(HELD)]
        try:
            assert len({one.id for one in held}) == HELD
            yield
        finally:
            for one in held:
                one.remove()

    @contextmanager
    def theirs() -> Iterator[None]:
        words = docker.run(command, shown, ["/bin/sleep", "600"])
        words.insert(words.index("run") + 1, "--detach")
        names = [
            subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
            for _ in range(HELD)
        ]
        yield
        subprocess.run([*command, "rm", "--force", *names], check=True, capture_output=True)

    def held(those: Callable[[], AbstractContextManager[None]]) -> None:
        with those():
            pass

    client.stop_pool()  # what is ready for cells is no part of these
    yield measure(f"{HELD} containers held at once, made and removed",
        lambda: held(ours), "docker", lambda: held(theirs),
        bound=1 / 20, rounds=1, warm=0)  # fmt: skip
    with ours(), theirs():  # once more, since to look takes time too
        launcher = psutil.Process(client.shared().pid)
        mine = _pss([launcher, *launcher.children(recursive=True)])
        dockers = _pss(docker.processes())
    what = f"memory of {HELD} held containers"
    yield Amounts(what, mine, "docker, its daemons and shims", dockers, 1 / 10)


def _pss(processes: list[psutil.Process]) -> float:
    """Proportional set size of all of them, MiB."""
    return float(sum(one.memory_full_info().pss for one in processes)) / (1 << 20)


def _empty_cell(rounds: int) -> Size:
    """In "Sandbox Cells", each cell in a fresh container, above that of plain ipykernel."""
    with kernels.started(CELLS) as cells, kernels.started(kernels.PLAIN) as plain:
        pair = measure(
            "", lambda: kernels._cell(cells, "", 0), "", lambda: kernels._cell(plain, "", 0),
            bound=1, rounds=rounds * 5, warm=20,
        )  # fmt: skip
    more = [mine - other for mine, other in zip(pair.ours, pair.theirs, strict=True)]
    what = "empty cell of Sandbox Cells, above that of ipykernel"
    return Size(what, 1000 * statistics.median(more), "ms", 10)


def _for_ever(fresh: Fresh, walls: Callable[[], None], count: int) -> Iterator[Size]:
    """No growth in descriptors, memory, groups, mounts; the last tenth as fast as the first.

    The machine itself is slower in one minute and faster in another. So both tenths are counted in
    times of `walls` in the same moments: bwrap around nothing, of which no run leaves anything.
    """
    launcher = psutil.Process(client.shared().pid)

    def there() -> tuple[int, int, int]:
        client.stop_pool()
        while client.shared().pool():  # the last cell's container is being removed
            time.sleep(0.01)
        mounts = len(Path(f"/proc/{launcher.pid}/mountinfo").read_text().splitlines())
        groups = sum(1 for _ in Path("/sys/fs/cgroup").glob("**/sandbox-kernel/*/"))
        return launcher.num_fds(), groups, mounts

    there()
    _times(fresh, 100)
    before, memory = there(), launcher.memory_full_info().uss
    cells: list[float] = []
    beside: list[float] = []
    while len(cells) < count:
        cells += [_seconds(fresh) for _ in range(CELLS_BETWEEN)]
        beside.append(_seconds(walls))
    after, grown = there(), launcher.memory_full_info().uss - memory
    # One more slot may have been needed meanwhile: its user namespace stays open for the next.
    assert after[1:] == before[1:], (before, after)
    assert after[0] - before[0] <= MORE_SLOTS, (before, after)
    first, last = _tenths(cells)
    first_of_peer, last_of_peer = _tenths(beside)
    what = f"{count} fresh cells one after another"
    yield Size(
        f"{what}: the last tenth ({shown(last)}) beside the first ({shown(first)}), both in times "
        f"of bwrap around nothing then ({shown(last_of_peer)}, {shown(first_of_peer)})",
        last / last_of_peer / (first / first_of_peer), "x", 1.1,
    )  # fmt: skip
    yield Size(f"{what}: growth of the launcher", grown / (1 << 20), "MiB", 2)


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _tenths(seconds: list[float]) -> tuple[float, float]:
    """The medians of the first and of the last."""
    tenth = len(seconds) // 10
    return statistics.median(seconds[:tenth]), statistics.median(seconds[-tenth:])
