"""What a notebook of "Sandbox Cells" has: settings, mode, values or state. Runs one cell at a time.

All of it belongs to one thread, but for `interrupt` and `end`, which may be called from any.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sandbox_kernel import audit, engine, errors, image, policy, settings
from sandbox_kernel.container import events as e
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.output_policy import Displays
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.runtime import client

from .. import commands as lines
from .. import course
from ..pinning import Pinning
from . import commands
from .fresh import Fresh

if TYPE_CHECKING:
    from sandbox_kernel.container.carry import Carried

OF_A_RUN = ("timeout", "output_limit", "output", "interrupt_grace")
"""Options that hold for a cell, whatever container it runs in."""


class Session:
    """One notebook. `cell` gives the events of a cell; `%sandbox` lines have some, too."""

    def __init__(self) -> None:
        self._within = settings.of_notebook(settings.of_kernelspec(settings.load()))
        self._defaults: dict[str, Any] = {}
        self.pinning = Pinning()
        self._named = self._plan({})
        self.plan = self.pinning.plan(self._named)
        self.mode = self.plan.mode
        self._fresh = Fresh()
        self._carried: Carried | None = None
        self.displays = Displays()
        """Of the container that the cell runs in: a fresh one has shown none."""
        self._running: engine.Run | Carried | None = None
        self._lock = threading.Lock()
        self._interrupts = 0
        self._told_lacking = False

    @property
    def output(self) -> str:
        """What the outputs of its cells may do."""
        return self.plan.output

    def warm(self) -> None:
        """What the first cell would wait for."""
        image.resolve(self.plan.image)
        self.pinning.record(self._named)
        client.shared().about  # noqa: B018 - asking starts it
        if self.mode == "carry":
            self._states()

    def _plan(self, options: dict[str, Any]) -> ContainerPlan:
        return policy.plan(settings.MAGIC, within=self._within, **{**self._defaults, **options})

    # -- one cell ---------------------------------------------------------------------------------

    def cell(self, code: str, count: int) -> Iterator[e.Event]:
        """Runs it. Our own errors are raised; those of the code are events."""
        try:
            yield from self._cell(code, count)
        finally:
            with self._lock:
                self._interrupts = 0

    def _cell(self, code: str, count: int) -> Iterator[e.Event]:
        command = lines.find(code)
        asked = commands.Line("none", (), {}, (), ())
        if command and command.name == lines.SANDBOX:
            asked = commands.read(command.line)
            yield from self._carry_out(asked, alone=command.alone)
            if command.alone:
                return
            code = command.rest
        elif command:
            allowed = 'a kernel that shows live views: take "Sandbox (Python 3)"; or run '
            allowed += f"`sandbox-kernel {command.name.split()[1]}` in a terminal"
            raise InvalidOption(command.name, command.line, allowed)
        yield from self._run(code, f"<cell {count}>", asked)

    def _run(self, code: str, name: str, asked: commands.Line) -> Iterator[e.Event]:
        carried = self.mode == "carry"
        request = self._fresh.request(code, name, asked.inputs, asked.outputs, carried=carried)
        if carried:
            engine.refuse_head(request, "mode carry")
            yield from self._run_carried(request, asked)
            return
        named = engine.declared(self._named, request, settings.MAGIC, within=self._within)
        running = self._fresh.start(self.pinning.plan(named), request)
        self.pinning.record(named)
        self._set_running(running)
        self.displays = Displays()
        try:
            yield from self._told(running.container.not_in_force)
            yield from self._fresh.take(running, asked.outputs)
        finally:
            self._set_running(None)
            running.close()

    def _run_carried(self, request: CellRequest, asked: commands.Line) -> Iterator[e.Event]:
        carried = self._states()
        yield from self._told(carried.container.not_in_force)
        held = carried.container
        entry = audit.begin(
            self.plan, by=request.by, digest=held.image.digest, code=request.code,
            container=held.id, limits=held.limits_at_start,
        )  # fmt: skip
        self._set_running(carried)
        try:
            yield from self._fresh.take(_noted(carried.run(request), entry), asked.outputs)
        except errors.ContainerError as error:
            if not carried.is_lost():
                raise
            self._begin_anew()
            again = "the next cell begins anew"
            told = str(error) if again in str(error) else f"{error}: {again}"
            raise errors.StateLost(told) from None
        finally:
            self._set_running(None)

    def _set_running(self, running: engine.Run | Carried | None) -> None:
        with self._lock:
            self._running = running
            early = self._interrupts if running is not None else 0
        for _ in range(early):
            self._pass_on(running)

    def _pass_on(self, running: engine.Run | Carried | None) -> None:
        if running is not None:
            running.interrupt()

    def _states(self) -> Carried:
        """The states of mode `carry`, begun with the first cell that needs them."""
        if self._carried is None:
            from sandbox_kernel.container.carry import Carried

            self._carried = Carried(self.plan)
            self.displays = Displays()
        return self._carried

    def _begin_anew(self) -> None:
        carried, self._carried = self._carried, None
        if carried is not None:
            with suppress(errors.SandboxError, OSError, TimeoutError):
                carried.close()

    def _told(self, lacking: tuple[str, ...]) -> Iterator[e.Event]:
        """Once: default limits that this host can't hold, and what the image lacks."""
        if lacking and not self._told_lacking:
            self._told_lacking = True
            yield e.Notice("; ".join(lacking))

    def interrupt(self) -> None:
        """SIGINT to the cell that runs; called again, or after the grace time, its end."""
        with self._lock:
            self._interrupts += 1
            running = self._running
        self._pass_on(running)

    def end(self) -> None:
        """The cell that runs is ended now."""
        for _ in range(2):
            self.interrupt()

    def close(self) -> None:
        """Nothing is left of it."""
        self._begin_anew()

    # -- what is known of names -------------------------------------------------------------------

    def known(self) -> tuple[str, ...]:
        """Names that each cell has from the start."""
        return tuple(name for name in self._fresh.shared if name in self._fresh.values)

    def complete(self, before: str, word: str) -> list[str] | None:
        """What the state knows of the word before the cursor; None where there is no state."""
        if self.mode != "carry" or not word:
            return None
        return self._states().complete(before, word)

    def inspect(self, name: str, detail: int) -> str | None:
        """What the state knows of a name; None where there is no state."""
        if self.mode == "carry":
            return self._states().inspect(name, detail)
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
            self._set(asked.options)
        if asked.verb == course.COURSE:
            yield e.Display(course.contents_bundle())
            return
        handler = getattr(self, f"_do_{asked.verb}")
        text = handler(asked, alone)
        if text:
            yield e.Display({"text/plain": text})

    def _set(self, options: dict[str, Any]) -> None:
        """Defaults of the next cells; in a container that lives, its limits too."""
        wished = {**self._defaults, **options}
        before, self._defaults = self._defaults, wished
        try:
            named = self._plan({})
            plan = self.pinning.plan(named)
            image.resolve(plan.image)
            self.pinning.record(named)
            live = {name: value for name, value in options.items() if name not in OF_A_RUN}
            fixed = [name for name in live if name not in policy.LIVE]
            if self._carried is not None and fixed and self._carried.is_new():
                self._begin_anew()
            if self._carried is not None:
                if live:
                    self._carried.container.set_limits(**live)
                ours = {name: getattr(plan, name) for name in OF_A_RUN}
                container = self._carried.container
                container.plan = container.plan.replaced(**ours)
        except BaseException:
            self._defaults = before
            raise
        self._named, self.plan = named, plan

    def _do_help(self, asked: commands.Line, alone: bool) -> str:
        return commands.help_text()

    def _do_options(self, asked: commands.Line, alone: bool) -> str:
        if not alone and not asked.options:
            return ""
        return self._table(asked.options if asked.options else None)

    def _do_mode(self, asked: commands.Line, alone: bool) -> str:
        self.mode = asked.words[0]
        if self.mode == "carry":
            self._states()
        else:
            self._begin_anew()
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
        self._begin_anew()
        self._fresh = Fresh()
        self._defaults = {}
        self._named = self._plan({})
        self.plan = self.pinning.plan(self._named)
        return "begun anew: no values, no state, and the settings as they were at the start"

    def _do_update(self, asked: commands.Line, alone: bool) -> str:
        told = self.pinning.update(self._named)
        self.plan = self.pinning.plan(self._named)
        image.resolve(self.plan.image)
        if self._carried is not None:
            told += "\nmode carry: `%sandbox reset` begins anew with it"
        return told

    def _go_back(self, verb: str) -> Carried:
        if self.mode != "carry":
            allowed = "a mode that has states (`%sandbox mode carry`): `fresh` keeps none"
            raise InvalidOption("%sandbox", verb, allowed)
        return self._states()

    def _do_undo(self, asked: commands.Line, alone: bool) -> str:
        return self._go_back("undo").undo(int((asked.words or ("1",))[0]))

    def _do_snapshot(self, asked: commands.Line, alone: bool) -> str:
        return self._go_back("snapshot").snapshot(asked.words[0])

    def _do_restore(self, asked: commands.Line, alone: bool) -> str:
        return self._go_back("restore").restore(asked.words[0])

    def _do_snapshots(self, asked: commands.Line, alone: bool) -> str:
        return self._go_back("snapshots").describe()

    def _table(self, only: dict[str, Any] | None) -> str:
        """The settings of the next cells; of a container that lives, what the kernel reads back."""
        limits = None if self._carried is None else self._carried.container.limits()
        rows = [("option", "value", "in force" if limits else "", "from")]
        if only is None:
            rows.append(("mode", self.mode, "yes" if limits else "", "this kernel"))
        for row in self.plan.describe(limits):
            if row.value != "-" and (only is None or row.option in only):
                rows.append((row.option, row.value, row.in_force, row.source))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join(
                word.ljust(width) for word, width in zip(row, widths, strict=True) if width
            ).rstrip()
            for row in rows
        )


def _noted(running: Iterator[e.Event], entry: audit.Entry | None) -> Iterator[e.Event]:
    """The events of a run, and its end in the record."""
    error: str | None = None
    finished = e.Finished(-9, {})
    try:
        for event in running:
            if isinstance(event, e.Error):
                error = error or event.name
            elif isinstance(event, e.Finished):
                finished = event
            yield event
    except errors.SandboxError as problem:
        error = error or type(problem).__name__
        raise
    finally:
        if entry is not None:
            entry.end(status=finished.status, error=error, usage=finished.usage)


_MODES = {
    "fresh": "each cell in a container of its own; what is named by --out or `share` crosses",
    "carry": "each cell in a fork of the state after the last one; `%sandbox undo` takes it back",
}
