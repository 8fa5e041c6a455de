"""How samples look: as text, and as HTML that a reader without eyes or colours understands."""

from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from sandbox_kernel.observe import Limits, Reading, sample
from sandbox_kernel.widgets import view
from sandbox_kernel.widgets.view import View

MIB = 1 << 20
LIMITS = Limits(memory=200 * MIB, processors=0.5, pids=50, storage=120 * MIB, available=2)


def usage(memory: int, seconds: float, pids: int = 2, **more: object) -> dict[str, object]:
    return {
        "memory_bytes": memory, "memory_peak_bytes": memory, "cpu_seconds": seconds, "pids": pids,
        "pids_peak": pids, "throttled_seconds": 0.0, "storage_bytes": 30 * MIB, **more,
    }  # fmt: skip


def shown(*usages: dict[str, object], limits: Limits = LIMITS, name: str = "work") -> View:
    """A view of samples that were taken half a second apart."""
    made = View(name)
    before = None
    for number, used in enumerate(usages):
        now = Reading(number / 2, used)
        made.add(sample(before, now, limits, 1.0))
        before = now
    return made


def elements(made: View) -> ElementTree.Element:
    """The markup, which must be well-formed."""
    return ElementTree.fromstring(made.markup())


def test_each_quantity_stands_beside_its_limit() -> None:
    made = shown(usage(50 * MIB, 1.0), usage(100 * MIB, 1.125))
    rows = {row.name: row for row in made.rows()}
    assert rows["Memory"].text == "100 MiB of 200 MiB, at most 100 MiB"
    assert rows["Memory"].percent == 50
    assert rows["Memory"].history == (25, 50)
    assert rows["CPU"].text == "0.25 of 0.5 processors, 1.12 s in all"
    assert rows["CPU"].percent == 50
    assert rows["Processes"].text == "2 of 50, at most 2"
    assert rows["Files"].percent == 25


def test_without_a_limit_there_is_no_share() -> None:
    made = shown(usage(50 * MIB, 1.0), usage(25 * MIB, 1.5), limits=Limits(available=2))
    rows = {row.name: row for row in made.rows()}
    assert rows["Memory"].text.startswith("25 MiB, no limit")
    assert (rows["Memory"].percent, rows["Memory"].history) == (None, (100, 50))
    assert rows["CPU"].text.startswith("1.00 processors, no limit")
    assert rows["CPU"].percent == 50  # of the two that there are
    assert [meter.get("aria-label") for meter in elements(made).iter() if meter.get("role") ==
            "meter"] == ["CPU"]  # fmt: skip


@pytest.mark.parametrize(
    ("memory", "level", "words"),
    [(100, "ok", ""), (160, "high", ": near the limit"), (199, "full", ": at the limit")],
)
def test_a_colour_never_stands_alone(memory: int, level: str, words: str) -> None:
    made = shown(usage(memory * MIB, 1.0))
    assert made.rows()[0].level == level
    assert made.rows()[0].words.endswith(words or "MiB")
    (bar,) = [e for e in elements(made).iter() if e.get("aria-label") == "Memory"]
    assert bar.get("data-level") == level
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


def test_a_name_is_text_and_never_markup() -> None:
    made = shown(usage(1, 1.0), name='<img src=x onerror="1">')
    assert "<img" not in made.page()
    assert elements(made).find(".//strong").text == '<img src=x onerror="1">'  # type: ignore[union-attr]


def test_old_samples_give_way() -> None:
    made = shown(*(usage(number * MIB, 0.0) for number in range(1, 200)))
    assert len(made.rows()[0].history) == view.MOST_SAMPLES
    points = elements(made).find(".//polyline").get("points")  # type: ignore[union-attr]
    assert len((points or "").split()) == view.MOST_SAMPLES


def test_the_state_says_whether_it_is_live() -> None:
    made = View("work")
    assert made.status() == "waiting for the first sample"
    made.add(sample(None, Reading(0, usage(1, 1.0)), LIMITS, 1.0))
    assert (made.status(), elements(made).get("data-state")) == ("live", "live")
    made.end("the container ended")
    assert re.fullmatch(r"the container ended \(\d\d:\d\d:\d\d\)", made.status())
    assert elements(made).get("data-state") == "ended"
    assert "the container ended" in made.text()


def test_what_has_no_limit_is_noted_when_it_happened() -> None:
    quiet = shown(usage(1, 1.0, written_bytes=0, oom_kills=0))
    assert quiet.notes() == []
    busy = usage(1, 1.0, written_bytes=3 * MIB, oom_kills=1) | {"throttled_seconds": 1.25}
    assert shown(busy).notes() == [
        "held back by the CPU limit for 1.2 s in all", "3 MiB written to devices", "out of memory",
    ]  # fmt: skip


def test_a_machine_that_counts_nothing_has_no_rows() -> None:
    made = shown(dict.fromkeys(usage(1, 1.0)))
    assert (made.rows(), made.notes()) == ([], [])
    assert "live" in made.text()


def test_nothing_is_loaded_from_anywhere() -> None:
    for text in (view.script(), view.style()):
        assert not re.search(
            r"https?:|//cdn|@import|url\(|import\s*\(|fetch\(|\bfrom\s+[\"']", text
        )


def test_the_package_loads_without_its_widgets() -> None:
    code = (
        "import sys, sandbox_kernel, sandbox_kernel.widgets, sandbox_kernel.widgets.view; "
        "print({'ipywidgets', 'anywidget', 'IPython', 'traitlets'} & set(sys.modules)); "
        "from sandbox_kernel.widgets import Limits; print(Limits.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["set()", "Limits"]
