"""Views of walls, ways and lives: hostile names stay text, both languages, clicks are checked."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

from sandbox_kernel import policy
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.observe import capabilities, filters, trials
from sandbox_kernel.observe.called import Called
from sandbox_kernel.observe.calls import Counted, Refused
from sandbox_kernel.observe.capabilities import MEANS, Sets
from sandbox_kernel.observe.compared import Compared
from sandbox_kernel.observe.comparing import Measured
from sandbox_kernel.observe.fact import Fact
from sandbox_kernel.observe.lifecycle import STATES, Life, RunOf, Stage
from sandbox_kernel.observe.permitted import OfProcess, Permitted
from sandbox_kernel.observe.planned import of_plan
from sandbox_kernel.observe.traffic import Drop, Flow, Member, Picture, Segment
from sandbox_kernel.widgets import attempts
from sandbox_kernel.widgets.capabilities import CapabilitiesView
from sandbox_kernel.widgets.compare import CompareView
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.lifecycle import LifecycleView
from sandbox_kernel.widgets.network import RULES, NetworkView
from sandbox_kernel.widgets.plan import PlanView
from sandbox_kernel.widgets.system_calls import SystemCallsView

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=y>\u202e\x1b[31m\ud800" + "A" * 10_000
NOW = time.time()
NONE = Sets((), (), (), (), ())
RAW = ("CAP_NET_RAW",)


def flow(received: float | None, sent: float | None) -> Flow:
    return Flow(received, received, sent, sent, 10, 20, "/proc/1/net/dev")


PICTURE = Picture(
    NOW,
    (
        Segment("class", "10.91.0.0/24", "10.91.0.1", False,
                (Member("aa", "web", "10.91.0.2", flow(2e6, 1e3)),
                 Member("bb", EVIL, "", flow(None, None), "it ended"))),
        Segment(EVIL, EVIL, EVIL, True, (Member("cc", "out", "10.92.0.2", flow(0, 5e9)),)),
    ),
    (Member("dd", "lonely", "", flow(0, 0)),),
    tuple(Drop(NOW, "web", rule, "tcp", "1", "169.254.169.254", 80) for rule in (*RULES, EVIL)),
    9, 1,
)  # fmt: skip
OUTCOMES = (
    trials.Outcome("mount a file system", "mount", None, "EPERM", trials.FILTER, "because", "x"),
    trials.Outcome("become another user", "setuid", None, "EPERM", trials.CAPABILITIES, EVIL, "x"),
    trials.Outcome("ask for its own number", "getpid", 7, "", trials.NOBODY, "it was let", "call"),
    trials.Outcome("swapon", "swapon", None, "EPERM", trials.FILTER, "because", "x"),
)
PERMITTED = Permitted(
    capabilities.known(),
    (
        OfProcess(100, 1, "holder", 70000, 0, Fact(NONE, "/proc/100/status")),
        OfProcess(101, 7, EVIL, 70000, 0, Fact(Sets(RAW, RAW, RAW, RAW, RAW), "x")),
        OfProcess(102, None, "gone", 0, None, Fact(None, "x", "not visible to you: why")),
    ),
    (),
    Fact(Sets(tuple(MEANS), (), (), (), ()), "x"),
    Fact(filters.InForce("filter", 1, True), "x"),
    4026533333,
    4026531837,
    OUTCOMES,
)
COUNTED = Counted(
    tuple((f"call{number}", 1000 - number) for number in range(30)),
    (Refused("mount", "EPERM", "filter", 3), Refused(EVIL, "SIGSYS", "kernel", 1)),
    4,
    ((12, EVIL),),
)
CALLED = Called(
    filters.of_plan(policy.plan()), Fact(filters.InForce("filter", None, True), "x"), True, "",
    COUNTED, 12.0, (("call0", 80.0),), OUTCOMES,
)  # fmt: skip
COMPARED = Compared(
    "host",
    (
        Measured("process", "", 0.02, "6.1", 24, 60, Fact(9 << 20, "x"), 1000, "", ("py",), True),
        Measured("container", "", 12.0, EVIL, 12, 2, Fact(None, "x", "not visible to you: why"),
                 None, EVIL, (EVIL,), None),
        Measured("gvisor", EVIL),
    ),
    "machine",
    NOW,
)  # fmt: skip
LIFE = Life(
    NOW, EVIL, "sha256:" + "ab" * 32, 5, 2, "3f2a", EVIL, 4711, EVIL, "running", EVIL,
    tuple(Stage(name, NOW - 60 + number if number in (1, 2, 3) else None, "x")
          for number, name in enumerate(STATES)),
    (RunOf(1, NOW - 50, NOW - 40, EVIL), RunOf(2, NOW - 30, None, "")), True,
)  # fmt: skip
PLANNED = of_plan(
    policy.plan(memory="256m", label=["a=<script>alert(1)</script>"]),
    {"memory": 1 << 20, "pids_limit": None},
)
ALL: tuple[tuple[type[View], Any], ...] = (
    (NetworkView, PICTURE),
    (CapabilitiesView, PERMITTED),
    (SystemCallsView, CALLED),
    (CompareView, COMPARED),
    (LifecycleView, LIFE),
    (PlanView, PLANNED),
)


def shown(made: type[View], facts: Any, spoken: str = "en", name: str = EVIL) -> View:
    view = made(name, spoken)
    view.show(facts)
    return view


@pytest.mark.parametrize(("made", "facts"), ALL)
@pytest.mark.parametrize("spoken", ["en", "zh"])
def test_what_containers_choose_is_text_and_nothing_else(
    made: type[View], facts: Any, spoken: str
) -> None:
    view = shown(made, facts, spoken)
    page, text = str(view.markup()), view.text()

    assert "<script" not in page.lower()
    assert "<img" not in page.lower()
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page + text
    )
    assert "A" * 500 not in page + text
    page.encode()
    text.encode()


@pytest.mark.parametrize(("made", "facts"), ALL)
def test_in_chinese_nothing_is_left_in_english_words(made: type[View], facts: Any) -> None:
    view = shown(made, facts, "zh", "work")
    english = [line for line in made.CHINESE if len(line.split()) > 3 and "{" not in line]

    assert not [line for line in english if line in view.text()]
    assert re.search(r"[\u4e00-\u9fff]", view.text())
    assert view.markup().count("sandbox-view") == 1


@pytest.mark.parametrize(("made", "facts"), ALL)
def test_before_there_are_facts_and_after_the_end_there_is_a_view(
    made: type[View], facts: Any
) -> None:
    view = made("work", "en")
    assert "waiting for the first look" in view.text()
    assert "</div>" in view.markup()
    view.show(facts)
    view.end("the container ended")
    assert "the container ended" in view.text()
    assert "data-act" not in view.markup() or made is CapabilitiesView  # what it chooses is its own
    with pytest.raises(InvalidOption):
        view.act("no such action", {})


def test_traffic_and_drops_are_numbers_with_the_rule_in_words() -> None:
    text = shown(NetworkView, PICTURE, name="work").text()

    assert "web 10.91.0.2: received 1.907 MiB/s, sent 1000 bytes/s" in text
    assert "tcp 169.254.169.254:80 private a private, link-local or metadata address" in text
    assert "packets dropped: 10" in text
    assert "lonely: loopback only" in text
    assert 'data-level="5"' in shown(NetworkView, PICTURE).markup()


def test_root_in_there_is_said_to_hold_nothing_and_another_process_can_be_chosen() -> None:
    view = shown(CapabilitiesView, PERMITTED, name="work")
    assert "not visible to you: why" in view.text()
    assert view.act("process", {"pid": "100"}) is None
    assert f"root in this container (holder) holds 0 of {len(PERMITTED.known)}" in view.text()
    view.act("process", {"pid": "101"})
    assert "effective: CAP_NET_RAW" in view.text()
    with pytest.raises(InvalidOption):
        view.act("process", {"pid": "1"})


@pytest.mark.parametrize("made", [CapabilitiesView, SystemCallsView])
def test_what_is_tried_is_a_name_and_nothing_else(made: type[View]) -> None:
    view = shown(made, PERMITTED if made is CapabilitiesView else CALLED)
    wanted: Mapping[str, str] = {"what": "read the kernel's messages"}
    assert view.act("try", wanted) == Deed("try", wanted)
    for wrong in ("", "mount;ls", "a" * 65, "<b>", "../x"):
        with pytest.raises(InvalidOption):
            view.act("try", {"what": wrong})


def test_every_trial_has_a_name_in_both_languages() -> None:
    assert {trial.name for trial in trials.TRIALS} <= set(attempts.CHINESE)
    assert set(trials.LAYERS) <= set(attempts.CHINESE)


def test_counting_is_off_until_its_reader_switches_it_on() -> None:
    view = shown(SystemCallsView, CALLED)
    assert view.act("count", {"wanted": "on"}) == Deed("count", {"on": True})
    assert view.act("count", {"wanted": "off"}) == Deed("count", {"on": False})
    with pytest.raises(InvalidOption):
        view.act("count", {"wanted": "yes"})
    assert "mount EPERM 3: refused by seccomp filter" in view.text()
    assert "call0 1000" in view.text()


def test_a_wall_that_is_not_here_has_its_reason_and_no_number() -> None:
    text = shown(CompareView, COMPARED).text()
    assert "process: time to start 20 ms; memory 9 MiB" in text
    assert re.search("gVisor: not here: <script>", text)
    assert "virtual machine: measuring virtual machine" in text


def test_each_value_of_a_plan_says_where_it_came_from_and_what_the_kernel_says() -> None:
    view = shown(PlanView, PLANNED)
    lines = {line.split()[0]: line for line in view.lines() if line.startswith("  ")}
    assert "magic  the kernel says 1 MiB" in lines["memory"]
    assert lines["pids_limit"].endswith("built-in default  no")
    assert "hostname" not in lines
    view.act("all", {"wanted": "on"})
    assert any(line.startswith("  hostname") for line in view.lines())


def test_a_life_shows_its_times_and_what_they_took() -> None:
    text = shown(LifecycleView, LIFE).text()
    assert "now: running" in text
    assert len(re.findall("after 1 s", text)) == 2
    assert "goes on" in text
