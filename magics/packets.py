"""`%container capture NAME`: packets of a container in a notebook, and a picture of who talks."""

from __future__ import annotations

import html
import math
import os
import threading
from collections.abc import Mapping, Sequence

from IPython.core.getipython import get_ipython

from magics import live
from sandbox_kernel import arguments, grammar
from sandbox_kernel.arguments import Flag
from sandbox_kernel.cli import capture as of_command
from sandbox_kernel.cli import output
from sandbox_kernel.cli.capture import Captured, Wish
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.network.capture import Packet, Talk, talks
from sandbox_kernel.observe import networks

BACKGROUND = Flag("background", ("--background",), "",
    "Return at once; `--stop` ends it. `_capture` is a handle of it: stop(), show().")  # fmt: skip
STOP = Flag("stop", ("--stop",), "",
    "End the capture in the background, and show it; with no name.")  # fmt: skip
MOST_LINES = 500
"""So many packets are shown one by one, the last ones."""
MOST_NODES = 24
"""So many are in the picture, those who said most."""


def run(words: list[str]) -> bool:
    """Captures, then shows a table and a picture. False: the words are for the command itself."""
    found = arguments.parse(words, (*of_command.FLAGS, BACKGROUND, STOP))
    shell = get_ipython()
    if not live.in_a_notebook() or shell is None:
        return False
    if found.own.get("stop"):
        taken = shell.user_ns.get("_capture")
        if not isinstance(taken, Capture) or len(found.own) > 1 or found.rest:
            allowed = "alone, after `%container capture NAME --background`"
            raise InvalidOption("--stop", " ".join(words), allowed)
        taken.stop()
        taken.show()
        return True
    if len(found.rest) != 1:
        return False
    wish = of_command.read(found)
    background = bool(found.own.get("background"))
    if wish.seconds is None and "count" not in found.own and not background:
        allowed = "with --count, --time or --background: a cell has to end"
        raise InvalidOption("capture", wish.container, allowed)
    handle = Capture(wish)
    shell.user_ns["_capture"] = handle
    if not background:
        handle.wait()
        handle.show()
    return True


class Capture:
    """Packets of a container, taken by a thread while the notebook goes on."""

    def __init__(self, wish: Wish) -> None:
        self.seen = Captured(wish.container)
        self._names = _names(wish.container)
        self._problem: BaseException | None = None
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        opened = networks.open_capture(wish.container)

        def take() -> None:
            try:
                of_command.perform(wish, opened, self.seen, lambda _: None, until=self._stop)
            except BaseException as problem:  # raised to who waits
                self._problem = problem

        name = f"capture {wish.container}"
        self._thread = threading.Thread(target=take, name=name, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return not self._thread.is_alive()

    @property
    def packets(self) -> tuple[Packet, ...]:
        """The last packets that were seen until now."""
        return tuple(self.seen.packets)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was over within so many seconds; None waits for its end, Ctrl-C ends it."""
        try:
            self._thread.join(timeout)
        except KeyboardInterrupt:
            self.stop()
        if self._problem is not None:
            raise self._problem
        return self.done

    def stop(self) -> None:
        """Ends it; what was seen stays."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()

    def show(self) -> None:
        """The last packets, who said how much to whom, and a picture of that."""
        from IPython.display import display

        packets = self.packets
        lines = [of_command.line(packet) for packet in packets[-MOST_LINES:]]
        rows = of_command.talk_rows(self.seen)
        told = of_command.summary(self.seen)
        text = "\n".join([told, *lines, "", output.text_table(of_command.TALKS, rows)])
        bundle = {"text/plain": text, "text/html": self._markup(told, lines, rows)}
        display(bundle, raw=True)  # type: ignore[no-untyped-call]

    def _markup(self, told: str, lines: list[str], rows: Sequence[Sequence[str]]) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in of_command.TALKS)
        body = "".join(
            "<tr>" + "".join(f"<td>{_text(self._named(cell))}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return (
            f"<p>{_text(told)}</p>{picture(talks(self.packets), self._names)}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<details><summary>packets</summary><pre>{_text(chr(10).join(lines))}</pre></details>"
        )

    def _named(self, cell: str) -> str:
        name = self._names.get(cell)
        return f"{cell} ({name})" if name else cell

    def __del__(self) -> None:
        os.close(self._stop)

    def __repr__(self) -> str:
        state = "over" if self.done else "goes on"
        return f"<capture of {self.seen.container}: {self.seen.count} packets, it {state}>"


def picture(found: Sequence[Talk], names: Mapping[str, str]) -> str:
    """Who talks to whom: each one on a circle, a line as thick as what was said is much."""
    nodes: list[str] = []
    for talk in found:
        for end in (talk.source, talk.destination):
            if end not in nodes and len(nodes) < MOST_NODES:
                nodes.append(end)
    if not nodes:
        return ""
    width, height, radius = 640, 360, 120
    places = {
        node: (
            width / 2 + 1.6 * radius * math.cos(2 * math.pi * number / len(nodes) - math.pi),
            height / 2 + radius * math.sin(2 * math.pi * number / len(nodes) - math.pi),
        )
        for number, node in enumerate(nodes)
    }
    most = max(talk.bytes for talk in found)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        'style="max-width:100%;font:12px sans-serif">',
        '<defs><marker id="to" viewBox="0 0 8 8" refX="18" refY="4" markerWidth="8" '
        'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#888"/></marker></defs>',
    ]
    for talk in found:
        if talk.source in places and talk.destination in places:
            parts.append(_line(talk, places[talk.source], places[talk.destination], most))
    for node, (x, y) in places.items():
        own = "#2a7" if node in names else "#57b"
        label = _text(names.get(node, node))
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="12" fill="{own}"/>')
        below = y + (28 if y >= height / 2 else -18)
        parts.append(
            f'<text x="{x:.0f}" y="{below:.0f}" text-anchor="middle" fill="currentColor">'
            f"{label}<title>{_text(node)}</title></text>"
        )
    return "".join([*parts, "</svg>"])


def _line(talk: Talk, start: tuple[float, float], end: tuple[float, float], most: int) -> str:
    """Bent to one side, so that the two directions lie beside each other."""
    (x1, y1), (x2, y2) = start, end
    bend = 0.12
    x, y = (x1 + x2) / 2 + (y2 - y1) * bend, (y1 + y2) / 2 - (x2 - x1) * bend
    thick = 1 + 4 * math.log1p(talk.bytes) / math.log1p(most)
    port = "" if talk.port is None else f" {talk.port}"
    says = (
        f"{talk.source} -> {talk.destination}, {talk.protocol}{port}: {talk.packets} packets, "
        f"{grammar.shown_size(talk.bytes)}"
    )
    return (
        f'<path d="M{x1:.0f} {y1:.0f}Q{x:.0f} {y:.0f} {x2:.0f} {y2:.0f}" fill="none" '
        f'stroke="#888" stroke-width="{thick:.1f}" stroke-opacity=".6" marker-end="url(#to)">'
        f"<title>{_text(says)}</title></path>"
    )


def _names(reference: str) -> dict[str, str]:
    """Address -> the name of the container that has it, as far as this one knows them."""
    facts = networks.facts(reference)
    own = facts["name"] or facts["container"]
    names = {}
    for link in facts["networks"]:
        names[link["address"]] = own
        names[link["gateway"]] = f"gateway of {link['network']}"
        names |= {at: name for name, at in link["neighbours"].items()}
    return names


def _text(text: str) -> str:
    cleaned = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return html.escape(cleaned)
