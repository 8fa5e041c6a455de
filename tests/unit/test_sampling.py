"""The arithmetic of samples, on readings that were taken of real containers."""

from __future__ import annotations

import pytest

from sandbox_kernel.observe import Limits, Reading, Sample, sample

# Two readings half a second apart: a Python that counts, under --cpus 0.5 --memory 200m, on v1.
BEFORE = {
    "cpu_seconds": 0.130521144, "memory_bytes": 54239232, "memory_peak_bytes": 57290752,
    "pids": 2, "pids_peak": 2, "throttled_seconds": 0.032804845, "read_bytes": None,
    "written_bytes": None, "oom_kills": 0, "storage_bytes": 0, "storage_limit": 125829120,
}  # fmt: skip
AFTER = BEFORE | {
    "cpu_seconds": 0.391772235, "memory_bytes": 56524800, "throttled_seconds": 0.279420812,
}  # fmt: skip
IN_FORCE = {
    "memory": 209715200, "memory_swap": 209715200, "cpus": 0.5, "cpu_shares": 1024,
    "cpuset_cpus": None, "pids_limit": 50, "device_read_bps": None, "device_write_bps": None,
}  # fmt: skip


def between(seconds: float, before: object = BEFORE, after: object = AFTER) -> Sample:
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    limits = Limits.read(IN_FORCE, 125829120)
    return sample(Reading(10.0, before), Reading(10.0 + seconds, after), limits, 1.0)


def test_processor_time_is_a_share_of_the_interval() -> None:
    found = between(0.5)
    assert found.processors == pytest.approx(0.5225, abs=1e-4)
    assert found.cpu_seconds == 0.391772235
    assert found.throttled == pytest.approx(0.4932, abs=1e-4)
    assert (found.memory_bytes, found.pids, found.seconds) == (56524800, 2, 0.5)


def test_several_processors_are_more_than_one() -> None:
    busy = AFTER | {"cpu_seconds": BEFORE["cpu_seconds"] + 1.5}  # type: ignore[operator]
    assert between(0.5, after=busy).processors == pytest.approx(3.0)


def test_throttled_time_of_several_processors_is_the_whole_interval_at_most() -> None:
    assert between(0.1).throttled == 1.0


def test_the_first_reading_has_no_interval() -> None:
    found = sample(None, Reading(1.0, AFTER), Limits(), 1.0)
    assert (found.processors, found.throttled, found.seconds) == (None, None, None)
    assert found.memory_bytes == 56524800


def test_two_readings_at_the_same_moment_say_nothing_about_rates() -> None:
    assert between(0.0).processors is None


def test_a_counter_that_was_reset_counts_nothing_for_its_interval() -> None:
    assert between(0.5, before=AFTER, after=BEFORE).processors == 0.0


def test_what_the_host_does_not_count_stays_unknown() -> None:
    nothing = dict.fromkeys(BEFORE)
    found = between(0.5, nothing, nothing)
    values = (found.processors, found.throttled, found.memory_bytes, found.pids, found.cpu_seconds)
    assert values == (None,) * 5


def test_limits_are_those_that_were_read_back() -> None:
    limits = Limits.read(IN_FORCE, 125829120)
    assert (limits.memory, limits.processors, limits.pids, limits.storage) == (
        209715200, 0.5, 50, 125829120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cpuset", "cpus", "most"),
    [("0", None, 1), ("0-2,5", None, 4), ("0-3", 1.5, 1.5), ("1", 4.0, 1), ("7,9", None, 2)],
)
def test_processors_are_those_of_the_cpuset_and_no_more_than_the_limit(
    cpuset: str, cpus: float | None, most: float
) -> None:
    assert Limits.read({"cpuset_cpus": cpuset, "cpus": cpus}).most_processors == most
