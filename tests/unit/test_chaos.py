"""The faults that a seed brings: the same each time, of every kind, at processes that are there."""

from __future__ import annotations

from collections import Counter

from chaos import schedule

SEEDS = range(1, 21)


def test_a_seed_brings_the_same_each_time_and_another_one_something_else() -> None:
    first = [schedule.points(seed, schedule.work(seed)) for seed in SEEDS]
    assert first == [schedule.points(seed, schedule.work(seed)) for seed in SEEDS]
    assert len(set(first)) == len(first)


def test_twenty_seeds_bring_every_kind_of_fault_and_of_work() -> None:
    points = [point for seed in SEEDS for point in schedule.points(seed, schedule.work(seed))]
    kinds = {"kill", "kill at", "stop", "delay", "fail", "fill", "damage"}
    assert {point.fault for point in points} == kinds
    assert {point.at for point in points if point.fault == "fill"} == set(schedule.FILLED)
    worked = Counter(kind for seed in SEEDS for kind in schedule.work(seed))
    assert set(worked) == set(schedule.WORK)
    assert max(worked.values()) - min(worked.values()) <= 4


def test_a_seed_takes_nobody_for_its_target_who_is_never_there() -> None:
    for seed in SEEDS:
        kinds = schedule.work(seed)
        assert len(set(kinds)) == schedule.AT_ONCE
        there = {
            *schedule.ALWAYS,
            *(role for kind in kinds for role in schedule.THERE.get(kind, ())),
        }
        for point in schedule.points(seed, kinds):
            if point.fault not in ("fill", "damage"):
                assert point.at in there
