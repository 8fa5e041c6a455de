"""What `build` prints of what happens: on a terminal at once, else when it is known."""

from __future__ import annotations

import io

from sandbox_kernel.building.events import Event, Notice, StepDone, StepOutput, StepStarted
from sandbox_kernel.cli.building import Printer

EVENTS: list[Event] = [
    Notice("--memory is not in force"),
    StepStarted("a", 1, 2, "COPY x /x"),
    StepDone("a", 1, True, 0.1),
    StepStarted("a", 2, 2, "RUN x"),
    StepStarted("b", 1, 1, "RUN y"),
    StepOutput("a", 2, 1, "one\ntwo"),
    StepOutput("b", 1, 2, "three\rfour\x1b[2J\n"),
    StepDone("a", 2, False, 2.0),
    StepDone("b", 1, False, 0.1),
    StepStarted("c", 1, 1, "ADD z /z"),
    StepDone("c", 1, False, 2.34),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(stream: io.StringIO) -> list[str]:
    printer = Printer(stream)
    for event in EVENTS:
        printer(event)
    return stream.getvalue().splitlines()


def test_elsewhere_a_step_is_told_when_something_is_known_of_it() -> None:
    assert printed(io.StringIO()) == [
        "--memory is not in force", "[a 1/2] COPY x /x  (cached)", "[a 2/2] RUN x", "one", "two",
        "[b 1/1] RUN y", "three", "four\N{REPLACEMENT CHARACTER}[2J", "[c 1/1] ADD z /z  (2.3 s)",
    ]  # fmt: skip


def test_on_a_terminal_a_step_is_there_as_soon_as_it_begins() -> None:
    stream = Terminal()
    Printer(stream)(EVENTS[1])
    assert stream.getvalue() == "[a 1/2] COPY x /x"
    assert printed(Terminal()) == [
        "--memory is not in force", "[a 1/2] COPY x /x  (cached)", "[a 2/2] RUN x",
        "[b 1/1] RUN y", "[a 2/2] RUN x", "one", "two", "[b 1/1] RUN y", "three",
        "four\N{REPLACEMENT CHARACTER}[2J",
        "[c 1/1] ADD z /z  (2.3 s)",
    ]  # fmt: skip
