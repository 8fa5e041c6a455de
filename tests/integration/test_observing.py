"""Samples of real containers under load: the numbers move, the limits stand there, threads end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox_kernel import errors, observe, policy, settings
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.observe import Observed, Observer, Sample, Use
from sandbox_kernel.widgets import Limits

pytestmark = pytest.mark.everybody

SECONDS = 30.0
MIB = 1 << 20
# Python that holds the GIL for as long as one call of C takes, which is many seconds.
HOLDS_THE_GIL = "import re; x = bytearray(60 << 20); re.match('(a+)+b', 'a' * 40)"


@contextmanager
def held(**options: object) -> Iterator[Container]:
    """A held container; afterwards no descriptor and no thread is left."""
    before = len(os.listdir("/proc/self/fd"))
    plan = policy.plan(settings.PROGRAM, **options)
    with Container.create(plan) as container:
        yield container
    for thread in threading.enumerate():
        if thread.name.startswith("observe"):
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture(autouse=True, scope="module")
def _launcher() -> None:
    """The launcher of this process is started before anything is counted, and stays."""
    with Container.create(policy.plan(settings.PROGRAM)):
        pass


class Watched:
    """What an observer tells, to be waited for."""

    def __init__(self, container: Observed, interval: float = 0.05) -> None:
        self.samples: list[Sample] = []
        self.why: str | None = None
        self._news = threading.Condition()
        self.observer = Observer(Use(container, interval), self._told, self._ended)

    def _told(self, sample: Sample) -> None:
        with self._news:
            self.samples.append(sample)
            self._news.notify_all()

    def _ended(self, why: str) -> None:
        with self._news:
            self.why = why
            self._news.notify_all()

    def until(self, wanted: object) -> None:
        assert callable(wanted)
        with self._news:
            assert self._news.wait_for(wanted, SECONDS), (self.why, self.samples[-3:])


@pytest.mark.root
def test_the_numbers_move_while_a_cell_holds_the_gil_in_c() -> None:
    with held(memory="200m", cpus=0.5, pids_limit=40) as container:
        watched = Watched(container)
        watched.until(lambda: watched.samples)
        assert watched.samples[0].processors is None
        process = container.run(ProcessSpec(argv=("python3", "-c", HOLDS_THE_GIL)))
        watched.until(lambda: (watched.samples[-1].memory_bytes or 0) > 60 * MIB)
        busy = len(watched.samples)

        def used(samples: list[Sample]) -> float:
            return sum((sample.processors or 0) * (sample.seconds or 0) for sample in samples)

        watched.until(
            lambda: (
                used(watched.samples[busy:]) > 0.4
                and max(sample.throttled or 0 for sample in watched.samples) > 0.2
            )
        )
        some = watched.samples[busy:]
        process.kill()
        process.wait(SECONDS)
        process.close()

        last, seconds = some[-1], sum(sample.seconds or 0 for sample in some)
        assert used(some) / seconds < 0.6  # half a processor is the limit
        counted = (last.cpu_seconds or 0) - (watched.samples[busy - 1].cpu_seconds or 0)
        assert used(some) == pytest.approx(counted)
        assert last.pids is not None
        assert last.pids >= 2
        assert last.memory_peak_bytes is not None
        assert last.memory_peak_bytes >= 60 * MIB
        limits = last.limits
        assert (limits.memory, limits.processors, limits.pids) == (200 * MIB, 0.5, 40)
        assert len({sample.cpu_seconds for sample in some}) > 5


def test_files_are_counted_against_their_limit() -> None:
    with held(storage_size="40m") as container:
        watched = Watched(container)
        watched.until(lambda: watched.samples)
        before = watched.samples[0].storage_bytes or 0
        write = "open('/tmp/x', 'wb').write(bytes(20 << 20))"
        process = container.run(ProcessSpec(argv=("python3", "-c", write)))
        process.wait(SECONDS)
        process.close()
        watched.until(
            lambda: (watched.samples[-1].storage_bytes or 0) - before in range(20 * MIB, 21 * MIB)
        )
        watched.until(lambda: watched.samples[-1].limits.storage == 40 * MIB)


@pytest.mark.root
def test_a_limit_that_changes_is_seen() -> None:
    with held(memory="200m") as container:
        watched = Watched(container)
        watched.until(lambda: watched.samples)
        container.set_limits(memory="100m")
        watched.until(lambda: watched.samples[-1].limits.memory == 100 * MIB)


def test_it_ends_with_the_container_at_once() -> None:
    with held() as container:
        watched = Watched(container, interval=60)
        watched.until(lambda: watched.samples)
        began = time.monotonic()
        container.remove()
        watched.until(lambda: watched.why)
        watched.observer.stop()
        assert watched.why == "the container ended"
        assert time.monotonic() - began < 10
        assert not watched.observer.running


def test_it_ends_when_the_container_was_over_before() -> None:
    with held() as container:
        container.remove()
        watched = Watched(container)
        watched.until(lambda: watched.why)
        assert watched.why == "the container ended"


def test_it_can_be_stopped_twice_and_tells_nothing_after() -> None:
    with held() as container:
        watched = Watched(container, interval=0.01)
        watched.until(lambda: len(watched.samples) > 3)
        watched.observer.stop()
        count = len(watched.samples)
        watched.observer.stop()
        assert (watched.why, count) == ("stopped", len(watched.samples))


def test_the_widget_takes_the_name_of_a_container_and_lets_go_of_it() -> None:
    with held(name="seen") as container:
        limits = Limits("seen", interval=0.05)
        assert "Limits, seen: " in repr(limits)
        watched = Watched(container)
        watched.until(lambda: len(watched.samples) > 2)
        watched.observer.stop()
        assert "live" in repr(limits)
        container.remove()
        limits.stop()
        assert "the container ended" in repr(limits)
    with pytest.raises(errors.NoSuchContainer, match="`seen`"):
        Limits("seen")


@pytest.mark.root
def test_one_observer_costs_next_to_nothing() -> None:
    with held(memory="200m") as container:
        watched = Watched(container, interval=observe.INTERVAL)
        watched.until(lambda: watched.samples)
        began, before = time.monotonic(), time.process_time()
        count = len(watched.samples)
        watched.until(lambda: len(watched.samples) >= count + 6)
        share = (time.process_time() - before) / (time.monotonic() - began)
        watched.observer.stop()
    assert share < 0.02, f"{share:.2%} of a processor"
