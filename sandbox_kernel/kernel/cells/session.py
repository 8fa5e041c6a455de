"""What a notebook of "Sandbox Cells" has: settings, mode, values or state. Runs one cell at a time.

All of it belongs to one thread, but for `interrupt` and `end`, which may be called from any.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from sandbox_kernel import image, policy, settings
from sandbox_kernel.container import events as e
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.runtime import client

from .. import commands as lines
from . import commands
from .fresh import Fresh


class Session:
    """One notebook. `cell` gives the events of a cell; `%sandbox` lines have some, too."""

    def __init__(self) -> None:
        self._within = settings.of_notebook(settings.of_kernelspec(settings.load()))
        self._defaults: dict[str, Any] = {}
        self.plan = self._plan({})
        self.mode = self.plan.mode
        self._fresh = Fresh()
        self._running: Any = None
        self._lock = threading.Lock()
        self._interrupts = 0
        self._told_lacking = False

    def warm(self) -> None:
        """What the first cell would wait for."""
        image.resolve(self.plan.image)
        client.shared().about  # noqa: B018 - asking starts it

    def _plan(self, options: dict[str, Any]) -> ContainerPlan:
        return policy.plan(settings.MAGIC, within=self._within, **{**self._defaults, **options})

    # -- one cell ---------------------------------------------------------------------------------

    def cell(self, code: str, count: int) -> Iterator[e.Event]:
        """Runs it. Our own errors are raised; those of the code are events."""
        with self._lock:
            self._interrupts = 0
        command = lines.find(code)
        asked = commands.Line("none", (), {}, (), ())
        if command and command.name == lines.SANDBOX:
            asked = commands.read(command.line)
            yield from self._carry_out(asked, alone=command.alone)
            if command.alone:
                return
            code = command.rest
        yield from self._run(code, f"<cell {count}>", asked)

    def _run(self, code: str, name: str, asked: commands.Line) -> Iterator[e.Event]:
        request = self._fresh.request(code, name, asked.inputs, asked.outputs)
        running = self._fresh.start(self.plan, request)
        with self._lock:
            self._running = running
            early = self._interrupts
        for _ in range(early):
            running.interrupt()
        try:
            yield from self._told(running.container.not_in_force)
            yield from self._fresh.take(running, asked.outputs)
        finally:
            with self._lock:
                self._running = None
            running.close()

    def _told(self, lacking: tuple[str, ...]) -> Iterator[e.Event]:
        """Once: default limits that this host can't hold."""
        if lacking and not self._told_lacking:
            self._told_lacking = True
            yield e.Notice("default limits that this host can't hold: " + "; ".join(lacking))

    def interrupt(self) -> None:
        """SIGINT to the cell that runs; called again, or after the grace time, its end."""
        with self._lock:
            self._interrupts += 1
            running = self._running
        if running is not None:
            running.interrupt()

    def end(self) -> None:
        """The cell that runs is ended now."""
        for _ in range(2):
            self.interrupt()

    def close(self) -> None:
        """Nothing is left of it."""

    # -- what is known of names -------------------------------------------------------------------

    def known(self) -> tuple[str, ...]:
        """Names that each cell has from the start."""
        return tuple(name for name in self._fresh.shared if name in self._fresh.values)

    def complete(self, before: str, word: str) -> list[str] | None:
        """What the state knows of the word before the cursor; None where there is no state."""
        return None

    def inspect(self, name: str, detail: int) -> str | None:
        """What the state knows of a name; None where there is no state."""
        if name in self._fresh.values:
            value = self._fresh.values[name]
            return f"type: {type(value).__name__}\nvalue: {str(value)[:1000]}"
        return None

    # -- %sandbox ---------------------------------------------------------------------------------

    def _carry_out(self, asked: commands.Line, *, alone: bool) -> Iterator[e.Event]:
        if alone and (asked.inputs or asked.outputs):
            option = "--in" if asked.inputs else "--out"
            names = ", ".join(asked.inputs or asked.outputs)
            raise InvalidOption(option, names, "code below it in the same cell")
        if asked.options:
            wished = {**self._defaults, **asked.options}
            before, self._defaults = self._defaults, wished
            try:
                plan = self._plan({})
                image.resolve(plan.image)
            except BaseException:
                self._defaults = before
                raise
            self.plan = plan
        handler = getattr(self, f"_do_{asked.verb}")
        text = handler(asked, alone)
        if text:
            yield e.Display({"text/plain": text})

    def _do_help(self, asked: commands.Line, alone: bool) -> str:
        return commands.help_text()

    def _do_options(self, asked: commands.Line, alone: bool) -> str:
        if not alone and not asked.options:
            return ""
        return self._table(asked.options if asked.options else None)

    def _do_mode(self, asked: commands.Line, alone: bool) -> str:
        self.mode = asked.words[0]
        return f"mode {self.mode}: {_MODES[self.mode]}"

    def _do_share(self, asked: commands.Line, alone: bool) -> str:
        self._fresh.shared.update(dict.fromkeys(asked.words))
        told = [f"{name}  {kind}" for name, kind in self._fresh.describe().items()]
        return "\n".join(told) or "nothing is shared: %sandbox share NAME..."

    def _do_unshare(self, asked: commands.Line, alone: bool) -> str:
        for name in asked.words:
            if name not in self._fresh.shared:
                known = ", ".join(self._fresh.shared) or "none"
                raise InvalidOption("%sandbox unshare", name, f"names that are shared: {known}")
        for name in asked.words:
            self._fresh.shared.pop(name, None)
        return self._do_share(asked._replace(words=()), alone)

    def _do_reset(self, asked: commands.Line, alone: bool) -> str:
        self._fresh = Fresh()
        self._defaults = {}
        self.plan = self._plan({})
        return "begun anew: no values, no state, and the settings as they were at the start"

    def _do_undo(self, asked: commands.Line, alone: bool) -> str:
        allowed = "a mode that has states: each cell of mode `fresh` begins with none"
        raise InvalidOption("%sandbox", asked.verb, allowed)

    _do_snapshot = _do_restore = _do_snapshots = _do_undo

    def _table(self, only: dict[str, Any] | None) -> str:
        rows = [("option", "value", "from")]
        if only is None:
            rows.append(("mode", self.mode, "this kernel"))
        for row in self.plan.describe():
            if row.value != "-" and (only is None or row.option in only):
                rows.append((row.option, row.value, row.source))
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        return "\n".join(
            f"{option.ljust(widths[0])}  {value.ljust(widths[1])}  {source}".rstrip()
            for option, value, source in rows
        )


_MODES = {
    "fresh": "each cell in a container of its own; what is named by --out or `share` crosses",
    "carry": "each cell in a fork of the state after the last one; `%sandbox undo` takes it back",
}
