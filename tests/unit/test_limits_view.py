"""How samples look: as text, and as HTML that a reader without eyes or colours understands."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.observe import Limits, Reading, sample
from sandbox_kernel.widgets import limits as view
from sandbox_kernel.widgets.contract import Deed
from sandbox_kernel.widgets.limits import LimitsView

MIB = 1 << 20
LIMITS = Limits(memory=200 * MIB, processors=0.5, pids=50, storage=120 * MIB, available=2)


def usage(memory: int, seconds: float, pids: int = 2, **more: object) -> dict[str, object]:
    return {
        "memory_bytes": memory, "memory_peak_bytes": memory, "cpu_seconds": seconds, "pids": pids,
        "pids_peak": pids, "throttled_seconds": 0.0, "storage_bytes": 30 * MIB, **more,
    }  # fmt: skip


def shown(*usages: dict[str, object], limits: Limits = LIMITS, name: str = "work") -> LimitsView:
    """A view of samples that were taken half a second apart."""
    made = LimitsView(name, "en")
    before = None
    for number, used in enumerate(usages):
        now = Reading(number / 2, used)
        made.show(sample(before, now, limits, 1.0))
        before = now
    return made


def elements(made: LimitsView) -> ElementTree.Element:
    """The markup, which must be well-formed."""
    return ElementTree.fromstring(made.markup())


def test_each_quantity_stands_beside_its_limit() -> None:
    made = shown(usage(50 * MIB, 1.0), usage(100 * MIB, 1.125))
    rows = {row.name: row for row in made.rows()}
    memory, cpu = rows["Memory"], rows["CPU"]
    assert (memory.used, memory.limit_text, memory.percent) == ("100 MiB", "200 MiB", 50)
    assert memory.more == ("at most 100 MiB",)
    assert made.history("memory") == [50 * MIB, 100 * MIB]
    assert (cpu.used, cpu.limit, cpu.percent) == ("0.25", 0.5, 50)
    assert cpu.more == ("1.12 s in all",)
    assert (rows["Processes"].used, rows["Processes"].limit_text) == ("2", "50")
    assert rows["Files"].percent == 25
    assert "Memory    [##########----------]  50 %  100 MiB of 200 MiB" in made.text()


def test_without_a_limit_there_is_no_share() -> None:
    made = shown(usage(50 * MIB, 1.0), usage(25 * MIB, 1.5), limits=Limits(available=2))
    rows = {row.name: row for row in made.rows()}
    assert (rows["Memory"].used, rows["Memory"].limit_text) == ("25 MiB", "no limit")
    assert rows["Memory"].percent is None
    assert rows["CPU"].used == "1.00"
    assert rows["CPU"].percent == 50  # of the two that there are
    assert [meter.get("aria-label") for meter in elements(made).iter() if meter.get("role") ==
            "meter"] == ["CPU"]  # fmt: skip


@pytest.mark.parametrize("limits_", [Limits(available=2), LIMITS])
def test_a_limit_is_a_line_within_the_chart_that_can_go_up_and_down(limits_: Limits) -> None:
    root = elements(shown(usage(50 * MIB, 1.0), usage(25 * MIB, 1.5), limits=limits_))
    lines = [element for element in root.iter() if element.get("role") == "slider"]
    assert [line.get("data-option") for line in lines] == ["memory", "cpus", "pids_limit"]
    for line in lines:
        least, now, most = (
            float(line.get(f"aria-value{word}") or "") for word in ("min", "now", "max")
        )
        assert least < now <= most
        assert line.get("tabindex") == "0"
        assert line.get("aria-valuetext")
        place = float((line.get("style") or "").removeprefix("bottom: ").removesuffix("%"))
        assert place == pytest.approx(100 * now / most, abs=0.01)


def test_a_dragged_line_asks_for_the_limit_in_its_own_unit() -> None:
    made = shown(usage(50 * MIB, 1.0))
    asked = {"option": "memory", "value": str(64 * MIB)}
    assert made.act("limit", asked) == Deed("set_limits", {"memory": 64 * MIB})
    asked = {"option": "cpus", "value": "0.2500001"}
    assert made.act("limit", asked) == Deed("set_limits", {"cpus": 0.25})
    asked = {"option": "pids_limit", "value": "12"}
    assert made.act("limit", asked) == Deed("set_limits", {"pids_limit": 12})


@pytest.mark.parametrize(
    "fields",
    [{}, {"option": "memory"}, {"option": "memory", "value": "all"},
     {"option": "memory", "value": "nan"}, {"option": "memory", "value": "inf"},
     {"option": "memory", "value": "-1"}, {"option": "cpus", "value": "0"},
     {"option": "storage", "value": "5"}, {"option": "image", "value": "5"}],
)  # fmt: skip
def test_what_is_no_limit_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidOption):
        shown(usage(50 * MIB, 1.0)).act("limit", fields)


def test_out_of_memory_and_refused_forks_are_marks_on_the_time_axis() -> None:
    made = shown(
        usage(1, 1.0, oom_kills=0, forks_refused=0), usage(1, 1.0, oom_kills=1, forks_refused=0),
        usage(1, 1.0, oom_kills=1, forks_refused=4), usage(1, 1.0, oom_kills=1, forks_refused=4),
    )  # fmt: skip
    marks = [e for e in elements(made).iter() if e.get("class") == "sandbox-mark"]
    assert [mark.get("aria-label") for mark in marks] == ["out of memory", "a fork was refused"]
    assert "forks refused: 4" in made.text()


def test_the_parts_of_the_memory_are_told_apart_in_words() -> None:
    made = shown(usage(50 * MIB, 1.0, memory_anon=30 * MIB, memory_kernel=2 * MIB))
    legend = "".join(elements(made).itertext())
    assert "of processes 30 MiB" in legend
    assert "of the kernel 2 MiB" in legend


@pytest.mark.parametrize(
    ("memory", "level", "words"),
    [(100, "ok", ""), (160, "high", ": near the limit"), (199, "full", ": at the limit")],
)
def test_a_colour_never_stands_alone(memory: int, level: str, words: str) -> None:
    made = shown(usage(memory * MIB, 1.0))
    assert made.rows()[0].level == level
    (row,) = [e for e in elements(made).iter() if e.get("data-key") == "memory"]
    assert row.get("data-level") == level
    (bar,) = [e for e in elements(made).iter() if e.get("aria-label") == "Memory"]
    assert (bar.get("aria-valuetext") or "").endswith(words or "MiB")
    assert words in made.text()


def test_a_meter_has_all_that_a_screen_reader_asks_for() -> None:
    root = elements(shown(usage(50 * MIB, 1.0), usage(50 * MIB, 1.1)))
    meters = [element for element in root.iter() if element.get("role") == "meter"]
    assert [meter.get("aria-label") for meter in meters] == ["Memory", "CPU", "Processes", "Files"]
    for meter in meters:
        assert 0 <= int(meter.get("aria-valuenow") or -1) <= 100
        assert (meter.get("aria-valuemin"), meter.get("aria-valuemax")) == ("0", "100")
    assert root.get("role") == "group"
    assert "work" in (root.get("aria-label") or "")
    lines = [element for element in root.iter() if element.tag == "svg"]
    assert all(line.get("aria-hidden") == "true" for line in lines)


def test_old_samples_give_way() -> None:
    made = shown(*(usage(number * MIB, 0.0) for number in range(1, 300)))
    first, rows = made.drawn()
    assert (first, len(rows)) == (299 - view.MOST_SAMPLES, view.MOST_SAMPLES)
    assert len(made.history("memory")) == view.MOST_SAMPLES
    (points, *_) = re.findall(r'<polyline points="([^"]*)"', made.page())
    assert len(points.split()) == view.MOST_SAMPLES
    assert "points=" not in made.markup()  # the page draws them, of rows that it is told once


def test_the_state_says_whether_it_is_live() -> None:
    made = LimitsView("work", "en")
    assert made.status() == "waiting for the first look"
    made.show(sample(None, Reading(0, usage(1, 1.0)), LIMITS, 1.0))
    assert (made.status(), elements(made).get("data-state")) == ("live", "live")
    made.end("the container ended")
    assert re.fullmatch(r"the container ended \(\d\d:\d\d:\d\d\)", made.status())
    assert elements(made).get("data-state") == "ended"
    assert "the container ended" in made.text()


def test_what_has_no_limit_is_noted_when_it_happened() -> None:
    quiet = shown(usage(1, 1.0, written_bytes=0, oom_kills=0))
    assert quiet.notes() == []
    busy = usage(1, 1.0, written_bytes=3 * MIB, oom_kills=1) | {"throttled_seconds": 1.25}
    assert shown(busy).notes() == ["3 MiB written to devices", "out of memory"]
    assert "held back for 1.2 s in all" in shown(busy).text()
    waiting = usage(1, 1.0, cpu_pressure=12.5, memory_pressure=0.0)
    assert shown(waiting).notes() == ["waited in the last 10 s: cpu 12.5 %, memory 0 %"]


def test_a_machine_that_counts_nothing_has_no_rows() -> None:
    made = shown(dict.fromkeys(usage(1, 1.0)))
    assert (made.rows(), made.notes()) == ([], [])
    assert "live" in made.text()


def test_everything_that_is_shown_is_made_anew_when_it_changes() -> None:
    """What is remembered of the last time must not outlive what it was made of."""
    parts = {"memory_anon": 9 * MIB, "memory_file": MIB}
    steps: list[tuple[dict[str, object], Limits]] = [(usage(50 * MIB, 1.0, **parts), LIMITS)]
    for change in (
        {"memory_bytes": 51 * MIB}, {"memory_peak_bytes": 52 * MIB}, {"cpu_seconds": 1.3},
        {"pids": 3}, {"pids_peak": 4}, {"throttled_seconds": 0.3}, {"storage_bytes": 31 * MIB},
        {"memory_anon": 10 * MIB}, {"memory_kernel": MIB}, {"read_bytes": 5}, {"written_bytes": 6},
        {"cpu_pressure": 1.5}, {"forks_refused": 1}, {"oom_kills": 1},
    ):  # fmt: skip
        steps.append(({**steps[-1][0], **change}, LIMITS))
        steps.append((steps[-1][0], LIMITS))  # and once more, without a change
    for limits in (Limits(available=2), Limits(memory=80 * MIB, processors=1.0, pids=40)):
        steps.append((steps[-1][0], limits))

    def all_of(count: int, made: LimitsView, *, look: bool) -> str:
        before = None
        for number, (used, limits) in enumerate(steps[:count]):
            now = Reading(number / 2, used)
            made.show(sample(before, now, limits, 1.0))
            before = now
            if look:
                made.markup()
        return made.markup()

    for count in range(1, len(steps) + 1):
        fresh = all_of(count, LimitsView("work", "en"), look=False)
        assert all_of(count, LimitsView("work", "en"), look=True) == fresh, steps[count - 1]
    made = LimitsView("work", "en")
    all_of(3, made, look=True)
    made.act("language", {"wanted": "zh"})
    assert "内存" in made.markup()
    made.answered(7, "no, since it is too small")
    assert 'data-answered="7"' in made.markup()
    assert "too small" in made.markup()
    made.end("stopped")
    assert 'data-state="ended"' in made.markup()
