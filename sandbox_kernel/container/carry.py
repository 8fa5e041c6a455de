"""Cells in forks of the state that the last one left, in one container; and the way back.

    carried = Carried(plan)
    for event in carried.run(CellRequest(code="x = 1", ...)): ...
    carried.undo(1)

Each state is a process inside that waits, with the files as they were then kept beside it. A cell
is a fork of the newest state, in a control group of its own. If it goes well, that process is the
next state; if not, its group is ended, and the files are put back.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.container import events as e
from sandbox_kernel.container import kept_files
from sandbox_kernel.container.cell import Bounds, Cell, CellRequest
from sandbox_kernel.container.container import Container
from sandbox_kernel.container.kept_files import KeptFiles
from sandbox_kernel.container.process import Exit, Process, ProcessSpec, Reason
from sandbox_kernel.container.program import CARRY_MODULES, START_CARRY, program
from sandbox_kernel.container.states import Said, State, control_pair
from sandbox_kernel.errors import InvalidOption, StateLost
from sandbox_kernel.linux import processes
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.runtime.client import Channel

CONTROL = 8
MOST_VALUES = 16 << 30
FIRST_SECONDS = 60.0
MOST_STATES = 32
"""States to go back to. Older ones are dropped, as they are when memory is short."""
MOST_NAMED = 16


class Carried:
    """One notebook's states. Belongs to one thread; `interrupt` may be called from any."""

    def __init__(self, plan: ContainerPlan) -> None:
        self._numbers = 0
        self._moments = 0
        self._before: list[State] = []  # the oldest first
        self._named: dict[str, State] = {}
        self._cell: Cell | None = None
        self._interrupts = 0
        self._lock = threading.Lock()
        self._thorough = False
        self._grown: list[int] = []
        """Cells that were dropped while something that they started runs on."""
        self._channel: Channel | None = None
        self.container = Container.create(plan)
        try:
            self._files = KeptFiles(self.container)
            self._first = self._start()
            self._keep(self._state)
        except BaseException:
            self.close()
            raise

    def _start(self) -> Process:
        interpreter = self.container.plan.entrypoint or self.container.image.interpreter
        ours, theirs = control_pair()
        self._state = State(ours, 0)
        complaint, complaint_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with theirs:
                process = self.container.run(
                    ProcessSpec(
                        argv=(interpreter or "python3", "-c", START_CARRY),
                        descriptors={
                            2: complaint_end,
                            3: program(CARRY_MODULES),
                            CONTROL: theirs.fileno(),
                        },
                    )
                )
            try:
                self._state.hear("ready", FIRST_SECONDS)
            except StateLost:
                error = process.wait(1.0).error() if process.ended() else None
                raise error or self._not_started(complaint) from None
        finally:
            os.close(complaint)
            os.close(complaint_end)
        return process

    def _not_started(self, complaint: int) -> errors.ContainerError:
        """With the last line that it wrote to its standard error."""
        said = b""
        with suppress(BlockingIOError):
            said = os.read(complaint, 1 << 16)
        last = (said.decode("utf-8", "replace").strip().splitlines() or ["it ended at once"])[-1]
        return errors.ContainerError(
            f"start Python in `{self.container.plan.image}`: {errors.shown(last)}: "
            "an image with Python 3.8 or later is needed"
        )

    # -- one cell ---------------------------------------------------------------------------------

    def run(self, request: CellRequest) -> Iterator[e.Event]:
        """The events of a cell. After the last one the state is the new one, or the old one.

        Raises StateLost when there is no state any more; then this is to be closed.
        """
        plan = self.container.plan
        made = self._fork(self._state, self._next())
        bounds = Bounds(
            output=plan.output_limit,
            values=min(plan.memory or 1 << 30, MOST_VALUES),
            grace=plan.interrupt_grace,
            pids=made.limits.get("pids_limit"),
        )
        cell = Cell(request, bounds)
        with self._lock:
            self._cell = cell
            early = self._interrupts  # they came while the fork was made
        for _ in range(early):
            cell.interrupt()
        running = Running(made, self, self.container.plan.timeout)
        finished: e.Finished | None = None
        failed = True
        try:
            numbers = {n: d for n, d in cell.descriptors.items() if n != 3}
            made.tell({"do": "run", "numbers": list(numbers)}, tuple(numbers.values()))
            cell.handed_over()
            for event in cell.events(running):
                if isinstance(event, e.Finished):
                    finished = event
                else:
                    yield event
            failed = running.failed
        finally:
            running.close()
            with self._lock:
                self._cell = None
                self._interrupts = 0
            cell.close()
            lines = self._take_back(made) if failed else ()
        if not failed and running.said is not None:
            lines = self._go_on(made, running.said)
        for line in lines:
            yield e.Notice(line)
        yield finished or e.Finished(1, {})

    def interrupt(self) -> None:
        """SIGINT to the cell that runs; again, or after the grace time: its end."""
        with self._lock:
            self._interrupts += 1
            cell = self._cell
        if cell is not None:
            cell.interrupt()

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _fork(self, state: State, number: int) -> State:
        """A fork of a state, in a control group of its own. Raises StateLost, HostLacks."""
        state.tell({"do": "reap"})
        made = state.fork(number)
        try:
            made.limits = self._ask("cell", {"cell": number}, (made.pidfd,))["limits"]
        except BaseException:
            with suppress(ProcessLookupError):
                processes.send_signal(made.pidfd, 9)
            made.close()
            raise
        return made

    def _take_back(self, failed: State) -> tuple[str, ...]:
        """The cell did not end well: nothing of it stays."""
        self._end(failed)
        if not self._state.is_alive():
            self._state.close()
            if not self._before:
                raise StateLost(
                    "the cell ended the state before it, and there is none to go back to: "
                    "the next cell begins anew"
                )
            return (f"the cell ended the state before it: {self._back(1)}",)
        return self._put_files_back(self._state)

    def _go_on(self, made: State, said: Said) -> tuple[str, ...]:
        """The cell ended well: its process is the state now."""
        lines = [f"not carried on: {line}" for line in said.left]
        self._thorough = self._thorough or said.mapped
        if said.threads:
            # Its threads would go on to change it: a fork has none, and stays what it is.
            still = self._fork(made, self._next())
            self._retire(made)
            made = still
        self._before.append(self._state)
        self._state = made
        lines += self._keep_now(made)
        lines += self._make_room()
        return tuple(lines)

    # -- the way back -----------------------------------------------------------------------------

    def undo(self, count: int) -> str:
        """Take back so many cells. Raises InvalidOption when there are fewer."""
        if count > len(self._before):
            there = len(self._before)
            allowed = f"at most {there}: so many cells can be taken back"
            if not there:
                allowed = "a cell that went well before it: there is none to take back"
            raise InvalidOption("%sandbox undo", count, allowed)
        return self._back(count)

    def _back(self, count: int) -> str:
        ended = 0
        if self._state.control.fileno() >= 0:
            self._end(self._state)
        self._forget_files(self._state)
        while self._before:
            self._state = self._before.pop()
            ended += 1
            if ended >= count and self._state.is_alive():
                break
            self._end(self._state)
            self._forget_files(self._state)
        else:
            raise StateLost("no state is left to go back to: the next cell begins anew")
        problems = self._put_files_back(self._state)
        more = len(self._before)
        told = f"taken back: {ended} cell{'s' * (ended != 1)}; {more} more can be"
        return "\n".join((told, *problems))

    def snapshot(self, name: str) -> str:
        """Give the state a name, under which it stays."""
        if name not in self._named and len(self._named) >= MOST_NAMED:
            allowed = f"at most {MOST_NAMED} names: use one again"
            raise InvalidOption("%sandbox snapshot", name, allowed)
        made = self._fork(self._state, self._next())
        made.moment = self._state.moment
        old = self._named.pop(name, None)
        self._named[name] = made
        if old is not None:
            self._end(old)
            self._forget_files(old)
        return "\n".join((f"the state is kept as `{name}`", *self._make_room()))

    def restore(self, name: str) -> str:
        """Go to the state of a name; `undo` then takes back just that."""
        kept = self._named.get(name)
        if kept is None:
            known = ", ".join(self._named) or "none: `%sandbox snapshot NAME` makes one"
            raise InvalidOption("%sandbox restore", name, f"names of snapshots: {known}")
        made = self._fork(kept, self._next())
        made.moment = kept.moment
        self._before.append(self._state)
        self._state = made
        return "\n".join((f"the state is that of `{name}`", *self._put_files_back(made)))

    def describe(self) -> str:
        """What there is to go back to."""
        count = len(self._before)
        lines = [f"{count} cell{'s' * (count != 1)} can be taken back"]
        lines += [f"{name}  a snapshot" for name in self._named]
        return "\n".join(lines)

    # -- files ------------------------------------------------------------------------------------

    def _keep_now(self, state: State) -> list[str]:
        """The files as they are now belong to this state; old states give way for them."""
        try:
            while not self._keep(state):
                if len(self._before) < 2:
                    return [kept_files.too_much(self._most())]
                self._retire(self._before.pop(0))
        except StateLost:
            # The cell ended it. Nobody knows any more what the files were before.
            self._files.close()
            self._files = KeptFiles(self.container)
            for other in (*self._before, *self._named.values()):
                other.moment = 0
            self._keep(state)
            return ["the cell ended what keeps the files: they are kept from now on"]
        except errors.ContainerError as error:
            return [str(error)]
        return []

    def _keep(self, state: State) -> bool:
        self._moments += 1
        if self._files.keep(self._moments, most=self._most(), thorough=self._thorough):
            state.moment = self._moments
            return True
        return False

    def _put_files_back(self, state: State) -> tuple[str, ...]:
        if not state.moment:
            return ("its files are not kept: they are as the last cell left them",)
        try:
            problems = self._files.restore(state.moment)
        except StateLost:
            return tuple(self._keep_now(state))
        except errors.ContainerError as error:
            return (str(error),)
        return tuple(f"not put back: {line}" for line in problems)

    def _forget_files(self, state: State) -> None:
        """Of a state that is gone, unless another one has the same."""
        others = (*self._before, *self._named.values(), self._state)
        if state.moment and all(o is state or o.moment != state.moment for o in others):
            with suppress(errors.ContainerError):
                self._files.drop(state.moment)

    def _most(self) -> int:
        """Bytes that all kept files together may have."""
        limit = self.container.plan.memory
        left = self._room()["memory"]
        most = limit // 2 if limit else 1 << 30
        return most if left is None else min(most, self._files.bytes + max(0, left) // 2)

    # -- room -------------------------------------------------------------------------------------

    def _room(self) -> dict[str, int | None]:
        """Bytes and processes that the container has left."""
        room: dict[str, int | None] = self._ask("cell-usage", {"cell": -1})["room"]
        return room

    def _make_room(self) -> list[str]:
        """Drop the oldest states while there are too many, or memory or processes are short."""
        why = ""
        dropped = 0
        while self._before:
            short = self._short_of(last=len(self._before) == 1)
            if not short and len(self._before) <= MOST_STATES:
                break
            why = short or why
            self._retire(self._before.pop(0))
            dropped += 1
        for number in list(self._grown):
            if self._ask("end-cell", {"cell": number, "leader": True})["gone"]:
                self._grown.remove(number)
        if not why:
            return []
        count = len(self._before)
        return [
            f"{dropped} of the oldest states dropped, since {why}: "
            f"{count} cell{'s' * (count != 1)} can be taken back"
        ]

    def _short_of(self, *, last: bool) -> str:
        """What is short, in words. The last state to go back to is given up later than others."""
        plan, room = self.container.plan, self._room()
        part = 8 if last else 2
        if plan.memory and room["memory"] is not None and room["memory"] < plan.memory // part:
            return "memory is short"
        if plan.pids_limit and room["pids"] is not None and room["pids"] < plan.pids_limit // part:
            return "processes are short"
        return ""

    def _retire(self, state: State) -> None:
        """A state that nobody goes back to. What its cell started may run on."""
        self._forget_files(state)
        if state.number == 0:
            self._first.kill()
        elif not self._ask("end-cell", {"cell": state.number, "leader": True})["gone"]:
            self._grown.append(state.number)
        state.close()

    def _end(self, state: State) -> None:
        """A state, and all that its cell started."""
        if state.number == 0:
            self._first.kill()
        else:
            with suppress(errors.NoSuchContainer):
                self._ask("end-cell", {"cell": state.number})
        state.close()

    # -- what is known of names -------------------------------------------------------------------

    def complete(self, before: str, word: str) -> list[str]:
        """Names that may stand for the word before the cursor."""
        self._state.tell({"do": "complete", "word": word[-200:], "before": before[-20_000:]})
        return self._state.hear("answer").matches

    def inspect(self, name: str, detail: int) -> str:
        """What the state knows of a name."""
        self._state.tell({"do": "inspect", "name": name[:200], "detail": detail})
        return self._state.hear("answer").text

    # -- the container ----------------------------------------------------------------------------

    def usage_of(self, state: State) -> dict[str, Any]:
        """What a cell used, from its control group."""
        try:
            used: dict[str, Any] = self._ask("cell-usage", {"cell": state.number})["usage"]
        except errors.ContainerError:
            return {}
        return used

    def _ask(
        self, operation: str, message: dict[str, Any], descriptors: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        if self._channel is None:
            self._channel = self.container.connect()
        self._channel.ask(operation, {"container": self.container.id, **message}, descriptors)
        return self._channel.hear(60.0)[0]

    def how_ended(self) -> tuple[int | None, int | None]:
        """Status or signal of the cell's process, as the state before it tells. No proof of it."""
        try:
            self._state.tell({"do": "how"})
            status = self._state.hear("answer", 2.0).status
        except StateLost:
            return None, 9
        return (None, -status) if status < 0 else (status or 1, None)

    def why_over(self) -> Exit | None:
        """How the container ended, if it did."""
        try:
            self.container.usage()
        except errors.ContainerError:
            with suppress(TimeoutError):
                return self._files.process.wait(1.0)
        return None

    def is_new(self) -> bool:
        """Whether no cell was ever run in it."""
        return self._numbers == 0

    def is_lost(self) -> bool:
        """Whether there is no state to go on from."""
        return not self._state.is_alive()

    def close(self) -> None:
        """Nothing is left of it."""
        for state in (*self._before, *self._named.values(), getattr(self, "_state", None)):
            if state is not None:
                state.close()
        for owner in ("_files", "_first"):
            if hasattr(self, owner):
                getattr(self, owner).close()
        if self._channel is not None:
            self._channel.close()
        self.container.remove()


class Running:
    """A cell on its way, as `Cell.events` wants a process to be."""

    def __init__(self, state: State, carried: Carried, timeout: float | None) -> None:
        self.said: Said | None = None
        self.failed = True
        self._state = state
        self._carried = carried
        self._reason: Reason = "exited"
        self._timeout = timeout
        self._closing = threading.Lock()
        self._epoll = select.epoll()
        self._epoll.register(state.control, select.EPOLLIN)
        self._epoll.register(state.pidfd, select.EPOLLIN)
        self._timer: threading.Timer | None = None
        if timeout is not None:
            self._timer = threading.Timer(timeout, self._end, ("timed-out",))
            self._timer.daemon = True
            self._timer.start()

    def fileno(self) -> int:
        """Readable when it said that it is over, or is gone."""
        return self._epoll.fileno()

    def ended(self) -> bool:
        """Whether it is over, though that may not be read yet."""
        return bool(self._epoll.poll(0))

    def signal(self, number: int) -> None:
        """To the process itself."""
        with suppress(ProcessLookupError):
            processes.send_signal(self._state.pidfd, number)

    def kill(self) -> None:
        """End all that is of the cell."""
        self._end("killed")

    def finish(self, status: int) -> None:
        """Its process is the state that the next cell begins with: it stays."""

    def _end(self, reason: Reason) -> None:
        with self._closing, suppress(ProcessLookupError):
            if not self._epoll.closed:
                self._reason = reason
                processes.send_signal(self._state.pidfd, 9)

    def wait(self, timeout: float | None = None) -> Exit:
        """How it ended. Raises TimeoutError when it has not."""
        if not self._epoll.poll(timeout):
            raise TimeoutError("the cell goes on")
        try:
            self.said = self._state.take("over")[0]
        except StateLost:
            self.said = None
        used = self._carried.usage_of(self._state)
        over = None if used else self._carried.why_over()
        status, number = (self.said.status, None) if self.said else self._carried.how_ended()
        message = ""
        if over is not None:
            self._reason, message = over.reason, over.message
            used = over.usage
        elif used.get("oom_kills"):
            self._reason = "out-of-memory"
        elif self._reason == "exited" and number is not None:
            self._reason = "signal"
        self.failed = self.said is None or status != 0 or self._reason != "exited"
        limits = {"memory": self._state.limits.get("memory")}
        return Exit(status, number, self._reason, used, limits, message, self._timeout)

    def close(self) -> None:
        """Let it go."""
        if self._timer is not None:
            self._timer.cancel()
        with self._closing:
            self._epoll.close()
