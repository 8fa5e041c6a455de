"""The containers of a launcher: what its programs ask about them, and what comes of it.

Over a channel a program asks for one thing at a time; the container or run that it made belongs to
it, and ends when it closes.

What can be asked for, and the answers, stand in `requests`.

What `outlives` the channel that it was asked for over ends by `remove`, or with the launcher. One
that is to leave a `record` is listed after its end, with its output, until it is removed.
"""

from __future__ import annotations

import heapq
import os
import signal
import socket
import sys
import time

from sandbox_kernel.errors import NoSuchContainer, SandboxError, StepFailed
from sandbox_kernel.linux import messages, waiting
from sandbox_kernel.runtime import cells, networks, open_files, outputs, requests, telling, wiring
from sandbox_kernel.runtime.cgroups import cells as cgroup_cells
from sandbox_kernel.runtime.ended_networks import EndedNetworks
from sandbox_kernel.runtime.feed import Feed
from sandbox_kernel.runtime.held import Held, Run, Sources, prepare
from sandbox_kernel.runtime.pool import Pool
from sandbox_kernel.runtime.slots import Slots
from sandbox_kernel.runtime.wiring import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox_kernel.runtime.cgroups.contract import Driver
    from sandbox_kernel.runtime.identities import Reserve
    from sandbox_kernel.runtime.loop import Loop
    from sandbox_kernel.runtime.slots import Slot
    from sandbox_kernel.runtime.templates import Template

RECIPE = (
    "config", "plan", "layers", "leases", "entries", "trees", "storage_size", "seccomp_program",
    "files", "network", "wall",
)  # fmt: skip
MOST_RECIPES = 32
MOST_OUTPUT = 1 << 20
"""Bytes of a container's output that are kept for those who ask later."""


class Client:
    """One channel to a program, and what belongs to it."""

    __slots__ = ("channel", "held", "run")

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.held: Held | None = None
        self.run: tuple[Held, Run] | None = None


class Containers:
    """The table of containers, and who has them. The pool, the slots and the wire call it, too."""

    def __init__(
        self,
        loop: Loop,
        driver: Driver,
        ids: int,
        *,
        launcher: str,
        runtime: str,
        sources: Sources,
        reserve: Reserve | None,
        holds: bool,
        stop_holding: Callable[[], None],
    ) -> None:
        self.loop = loop
        self._driver = driver
        self.ids = ids
        self._launcher = launcher
        self._sources = sources
        self.sources_folder = sources.folder
        self._stop_holding = stop_holding
        self._containers: dict[str, Held] = {}
        self._owners: dict[str, Client | None] = {}
        self._deadlines: list[tuple[float, str, int]] = []
        self._recipes: dict[str, dict[str, Any]] = {}
        self.records: dict[str, telling.Record] = {}
        """Of those that are over and were to leave one, by id."""
        self.events = Feed(telling.MOST_EVENTS)
        self._next_spare: float | None = None
        self.about: dict[str, Any] = {}
        """What programs are told about this launcher."""
        self._slots = Slots(self, reserve, ids)
        self._wire = Wire(self, runtime)
        self._ended_networks = EndedNetworks()
        self.pool = Pool(self, holds=holds)

    def has_any(self) -> bool:
        """Whether there is a container, or the record of one."""
        return bool(self._containers or self.records)

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """See `Loop.watch`."""
        self.loop.watch(descriptor, handler)

    def forget(self, descriptor: int) -> None:
        """See `Loop.forget`."""
        self.loop.forget(descriptor)

    # --- their time

    def next_due(self) -> float | None:
        """When `end_overdue` has something to do next, by time.monotonic; None when nothing is."""
        known = (self.pool.next_tick, self._next_spare, self._ended_networks.due)
        dues = [at for at in known if at is not None]
        if self._deadlines:
            dues.append(self._deadlines[0][0])
        return min(dues) if dues else None

    def end_overdue(self, now: float) -> None:
        """What is due: ends of runs and of what nobody uses."""
        if self.pool.next_tick is not None and self.pool.next_tick <= now:
            self.pool.tick()
        if self._ended_networks.due is not None and self._ended_networks.due <= now:
            self._ended_networks.close()
        if self._next_spare is None or self._next_spare <= now:
            self._next_spare = self._slots.rest_idle(now)
        while self._deadlines and self._deadlines[0][0] <= now:
            _, container, number = heapq.heappop(self._deadlines)
            held = self._containers.get(container)
            if held is None:
                continue
            if number < 0:
                held.kill("stopped")
            elif number in held.runs:
                held.kill_run(held.runs[number], "timed-out")

    def are_used(self) -> bool:
        """Whether one of them is more than ready for somebody who may come."""
        return any(not self.pool.only_waits(held) for held in self._containers.values())

    def drop_kept(self) -> None:
        """Groups that wait for their next container go, since there will be none so soon."""
        try:
            self._driver.drop_kept()
        except (SandboxError, OSError) as error:  # the sweep of the next start tries again
            print(f"sandbox-kernel: remove a group: {error}", file=sys.stderr, flush=True)

    def get_ready(self) -> None:
        """Have a place for the first, while its program makes up its mind."""
        try:
            self._slots.prepare()
        except (SandboxError, OSError):
            pass  # whoever asks for a container is told why there can be none

    def kill_all(self, reason: str) -> None:
        """Those who had them are gone, and nobody asks for the records."""
        self.records.clear()
        for held in list(self._containers.values()):
            held.kill(reason)

    def close(self) -> None:
        """End all of them, with all that was ready for others; returns when nothing is left."""
        # A nest can't end before the containers in it have, and we are who reaps those.
        for held in sorted(self._containers.values(), key=_is_nest):
            held.kill("the launcher ended")
        self.pool.close()
        for held in sorted(self._containers.values(), key=_is_nest):
            self._end(held)
        self._ended_networks.close()
        self._wire.drain()
        self._slots.close()
        self.drop_kept()

    # --- channels

    def add_client(
        self,
        channel: socket.socket,
        request: dict[str, Any] | None = None,
        descriptors: list[int] | None = None,
    ) -> None:
        """A program has a new channel to us, which may come with its first request."""
        channel.setblocking(False)
        client = Client(channel)
        self.watch(channel.fileno(), lambda: self._hear(client))
        if request is not None:
            self._handle(client, request, descriptors or [])

    def _hear(self, client: Client) -> None:
        try:
            received = receive(client.channel)
        except BlockingIOError:
            return
        except ValueError as error:
            self.answer(client, wiring.as_message(StepFailed("read", "a request", str(error))))
            return
        if received is None:
            self._drop(client)
            return
        self._handle(client, *received)

    def _handle(self, client: Client, message: dict[str, Any], descriptors: list[int]) -> None:
        """Do what is asked for. Owns the descriptors, and closes those that nobody took."""
        try:
            handler = requests.OPERATIONS.get(message.get("op", ""))
            if handler is None:
                raise StepFailed("read", str(message.get("op")), "no such request")
            handler(self, client, message, descriptors)
        except Exception as error:  # what one program asks for wrongly ends no other's containers
            self.answer(client, wiring.as_message(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _drop(self, client: Client) -> None:
        self.forget(client.channel.fileno())
        client.channel.close()
        if client.run:
            held, run = client.run
            if run.number in held.runs:
                held.kill_run(run, "its program ended")
        if client.held and client.held.id in self._containers:
            self._owners[client.held.id] = None
            client.held.kill("its program ended")

    def answer(
        self, client: Client | None, message: dict[str, Any], descriptors: tuple[int, ...] = ()
    ) -> None:
        """Tell a client something. One that has gone, or does not read, is dropped."""
        if client is None or client.channel.fileno() < 0:
            return
        try:
            messages.send(client.channel, message, descriptors)
        except OSError:
            # Gone, or it does not read: either way it gets nothing more.
            self._drop(client)

    # --- requests

    def create(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        name = message.get("name")
        if name and any(row["name"] == name for row in self.rows()):
            raise StepFailed("create", name, "a container of this name exists: remove it first")
        recipe = self.recipe_of(message)
        warm = message.get("warm")
        if recipe is None or (warm and not self.pool.knows(warm["key"], message, owned)):
            self.answer(client, {"event": "recipe-wanted"})
            return
        message = {**message, **recipe}
        if message.get("network") and not self._wire.is_there():
            self.answer(client, {"event": "network-wanted"})
            return
        if not (warm and self.pool.take(client, message, owned)):
            self.create_cold(client, message, owned)

    def create_cold(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        """A container whose process is started by its pid 1."""
        joined = [owned.pop()] if message.get("joins") else []
        try:
            held = self._new(message, self._slots)
            networks.join(held, joined)
        finally:
            for network in joined:
                os.close(network)
        process = message.get("process")
        if process:
            numbers = dict(zip(message["numbers"], owned, strict=True))
            owned.clear()
            held.runs[0] = run = Run(0, client, None, message.get("timeout"))
            if not message.get("outlives"):
                client.run = (held, run)
            if message.get("logged"):
                outputs.collect(self.loop, held, numbers)
        else:
            numbers = {}
        message["created"] = time.time()
        self._let_go(held, numbers)
        self._owners[held.id] = client
        if not message.get("outlives"):
            client.held = held

    def create_cold_later(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        """The same when the request was heard long ago: what goes wrong is the client's answer."""
        try:
            self.create_cold(client, message, owned)
        except Exception as error:  # see `_handle`
            self.answer(client, wiring.as_message(error))

    def _new(self, order: dict[str, Any], slots: Slots) -> Held:
        open_files.need("make", order["id"])
        return Held(
            order,
            log=Feed(MOST_OUTPUT),
            driver=self._driver,
            launcher=self._launcher,
            sources=self._sources,
            slots=slots,
        )

    def let_go(self, held: Held, numbers: dict[int, int], network: int | None = None) -> None:
        """Have it made; see `Held.let_go`."""
        held.let_go(numbers, network)
        if keeper := held.keeper:
            self.watch(keeper.fileno(), lambda: self._hear_inner(held, keeper))

    def _let_go(self, held: Held, numbers: dict[int, int]) -> None:
        try:
            if held.order.get("network"):
                held.waiting = numbers
                held.slots.maker_of(held.slot).make_network(held.id)
            else:
                self.let_go(held, numbers)
        except BaseException:
            held.end()
            raise
        self._containers[held.id] = held
        self._owners[held.id] = None
        if held.oom_fd >= 0:
            self.watch(held.oom_fd, lambda: self._hear_oom(held))

    def recipe_of(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """What of an order depends on plan and image alone: it came with it, or with another."""
        digest: str = message["recipe"]
        if digest not in self._recipes:
            if "config" not in message:
                return None
            if len(self._recipes) >= MOST_RECIPES:
                del self._recipes[next(iter(self._recipes))]
            self._recipes[digest] = prepare({name: message[name] for name in RECIPE})
        return self._recipes[digest]

    def stop_later(self, held: Held, seconds: float) -> None:
        """End it then, if it has not ended before."""
        heapq.heappush(self._deadlines, (time.monotonic() + seconds, held.id, -1))

    def stop_pool(self, done: Callable[[], None]) -> None:
        """Hold nothing for others any more; `done` when all that waited is gone."""
        self._stop_holding()
        self._slots.rest_all()

        def gone() -> None:
            self._ended_networks.close()
            done()

        self.pool.stop("the pool was stopped", gone)

    def open_agent(self, held: Held, *, adopts: bool = False) -> None:
        agent = held.open_agent(adopts=adopts)
        self.watch(agent.fileno(), lambda: self._hear_inner(held, agent))

    def rows(self) -> list[dict[str, Any]]:
        living = [held for held in self._containers.values() if not self.pool.only_waits(held)]
        return [*map(telling.row, living), *(record.row for record in self.records.values())]

    def tell(self, kind: str, held: Held, **details: Any) -> None:
        """One more event, for those who asked for events."""
        self.events.append(telling.event(kind, held, details), 1)

    def get(self, reference: str) -> Held | None:
        """The container of this id, if it is not over."""
        return self._containers.get(reference)

    def find(self, reference: str, *, ending: bool = False) -> Held:
        """A container that runs; with `ending`, also one that is on its way out. Raises
        NoSuchContainer."""
        held = self._containers.get(reference)
        if held is None or (held.reason and not ending):
            raise NoSuchContainer(f"find container `{reference}`: it is not running")
        return held

    # --- makers of slots

    def ways_home(self) -> list[int]:
        """See `Driver.ways_home`."""
        return self._driver.ways_home()

    def hear_maker_of(self, slot: Slot) -> None:
        """A slot has a new maker: listen to it."""
        assert slot.maker is not None
        self.watch(slot.maker.channel.fileno(), lambda: self._hear_maker(slot))

    def _hear_maker(self, slot: Slot) -> None:
        """A container is there, or can't be made, or its program ended."""
        assert slot.maker is not None
        try:
            received = receive(slot.maker.channel)
        except BlockingIOError:
            return
        if received is None:
            self._maker_ended(slot)
            return
        said, descriptors = received
        if "ended" in said:
            slot.maker.why = f"the maker of it ended: {said['ended']}"
            return  # its end is heard next
        about = (said[at] for at in ("made", "failed", "network", "exited") if at in said)
        held = self._containers.get(next(about))
        if held is None or ("network" in said and held.ending):
            for descriptor in descriptors:
                os.close(descriptor)
        elif "network" in said:
            networks.connect(self, self._wire, held, descriptors[0])
        elif "made" in said:
            self._made(held, said, descriptors)
        elif "failed" in said:
            self._not_made(held, said)
        else:
            self.on_exit(held, {**said, "run": 0})

    def _not_made(self, held: Held, said: dict[str, Any]) -> None:
        held.answered = True
        held.order["failed"] = said
        held.reason = held.reason or f"{said['step']} {said['subject']}: {said['why']}"
        self._end(held)

    def _made(self, held: Held, said: dict[str, Any], descriptors: list[int]) -> None:
        writable, pidfd, *rest = descriptors
        leader = rest.pop(0) if said["leader"] else -1
        held.made(writable, pidfd, dict(zip(said["kinds"], rest, strict=True)))
        self.watch(pidfd, lambda: self._end(held))
        if self.pool.made(held):
            return
        self.tell("created", held)
        owner = self._owners.get(held.id)
        if leader >= 0:
            self._on_start(held, held.runs[0], leader)
            self.answer(owner, telling.created(held), (leader,))
            os.close(leader)
        else:
            held.slots.spare(held.slot)
            self.answer(owner, telling.created(held))
        if held.keeper and 0 in held.runs:
            held.start_first()
        if "failure" in said:
            self.on_exit(held, {"run": 0, "failure": said["failure"], "status": said["status"]})

    def _maker_ended(self, slot: Slot) -> None:
        """Somebody ended it: what it was making, or whose end it would tell, ends too."""
        held = self._containers.get(slot.container or "")
        why = slot.maker.why if slot.maker else ""
        if held is not None:
            held.slots.rest(slot)
            self.pool.maker_ended(held)
            if held.pidfd < 0:
                held.reason = held.reason or why
                self._end(held)
            elif held.agent or (0 in held.runs and not held.keeper and held.slots is self._slots):
                held.kill(why)
        else:
            self._slots.rest(slot)

    def networks_ended(self) -> None:
        """The holder of networks has ended: what was ready in one is of no use any more."""
        self.pool.networks_ended()

    def not_connected(self, held: Held) -> None:
        """It has no network, and so is not made; `networks` has noted why."""
        if held.id in self._containers and not held.ending:
            self._end(held)

    # --- what the pool needs

    def make(self, order: dict[str, Any], slots: Slots | None = None) -> Held:
        """A container that belongs to nobody yet, in slots of a nest or in our own."""
        held = self._new(order, slots or self._slots)
        self._let_go(held, {})
        return held

    def not_made(self, held: Held) -> None:
        """There will be no pid 1: who would make it has ended."""
        held.kill("the maker of it ended")
        self._end(held)

    def start_template(self, held: Held, process: dict[str, Any], numbers: dict[int, int]) -> None:
        """Run the program of a template in its nest. Closes the descriptors."""
        try:
            self.open_agent(held, adopts=True)
        except BaseException:
            for descriptor in numbers.values():
                os.close(descriptor)
            raise
        held.start(None, process, numbers, None)

    def bind(self, held: Held, client: Client, run: Run) -> None:
        """From now on it is the client's, and ends with his channel."""
        self._owners[held.id] = client
        client.held = held
        client.run = (held, run)

    def started(self, held: Held, run: Run, leader: int, client: Client) -> None:
        """A client's process runs in a container that was ready."""
        self.tell("created", held)
        self._on_start(held, run, leader)
        self.answer(client, telling.created(held), (leader,))

    def exited(self, held: Held, message: dict[str, Any]) -> None:
        """A client's process ended."""
        self.on_exit(held, message)

    def tell_template(self, kind: str, template: Template, **details: Any) -> None:
        """One more event, about a template."""
        self.tell(kind, template.held, **details)

    # --- what containers say

    def _hear_inner(self, held: Held, channel: socket.socket) -> None:
        """Its agent, or its keeper, says something."""
        try:
            received = receive(channel)
        except BlockingIOError:
            return
        if received is None:
            # Without it nobody would tell how its runs end.
            self.forget(channel.fileno())
            held.kill(f"its {'keeper' if channel is held.keeper else 'agent'} ended")
            if held.pidfd < 0 and not held.ending:
                self._end(held)
            return
        message, descriptors = received
        try:
            self._on_agent(held, message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _on_agent(self, held: Held, message: dict[str, Any], descriptors: list[int]) -> None:
        at = message["at"]
        if at == "made":
            self._made(held, message, descriptors)
            descriptors.clear()  # they are the container's
        elif at == "failed":
            self._not_made(held, message)
        elif at == "forked":
            run = held.runs.get(message["run"])
            if run is not None:
                self._on_start(held, run, descriptors[0])
                answer = {"event": "started", "run": run.number}
                self.answer(run.client, answer, (descriptors[0],))  # type: ignore[arg-type] # Held does not know what a client is
        elif at == "moved":
            waiting, answer = cells.moved(held, message)
            self.answer(waiting, answer)  # type: ignore[arg-type] # as above
        elif at == "exited":
            self.on_exit(held, message)
            self.pool.interpreter_ended(held)
        elif at == "orphan":
            self.pool.reaped(held, message)

    def _on_start(self, held: Held, run: Run, leader: int) -> None:
        held.forked(run, leader)
        self.tell("started", held, run=run.number)
        if run.timeout is not None:
            deadline = time.monotonic() + run.timeout
            heapq.heappush(self._deadlines, (deadline, held.id, run.number))

    def on_exit(self, held: Held, message: dict[str, Any]) -> None:
        run = held.runs.pop(message["run"], None)
        if run is None:
            return
        out_of_memory = message.get("signal") == signal.SIGKILL and held.group.oom_kills() > 0
        if out_of_memory:
            held.reason = held.reason or "out-of-memory"
        self._say_exited(held, run, message, "out-of-memory" if out_of_memory else None)
        held.end_run(run)
        _let_go(run)
        if (held.single and run.number == 0) or out_of_memory:
            held.kill("over")
        elif held.stopping and not held.runs:
            held.kill("stopped")

    def _say_exited(
        self, held: Held, run: Run, message: dict[str, Any], reason: str | None
    ) -> None:
        answer = {
            "event": "exited",
            "run": run.number,
            "status": message.get("status"),
            "signal": message.get("signal"),
            "failure": message.get("failure"),
            "reason": reason or run.reason or held.reason,
            "usage": held.usage(),
            "limits": held.group.limits() if reason or held.reason else None,
        }
        if run.timeout is not None:
            answer["timeout"] = run.timeout
        held.last_exit = {
            name: answer.get(name) for name in ("status", "signal", "failure", "reason", "timeout")
        }
        self.answer(run.client, answer)  # type: ignore[arg-type] # as above
        os.sched_yield()  # who waits for it may have been woken on this very processor
        self.tell("exited", held, run=run.number, **held.last_exit)

    def _hear_oom(self, held: Held) -> None:
        """The kernel ended a process of the group: on cgroup v1 we end the others (D4)."""
        os.read(held.oom_fd, 4096)
        if not cgroup_cells.ran_out(held.group):
            return  # of a cell, whose group has ended it, or copies of files were dropped
        self.tell("out-of-memory", held)
        # The kernel says so before it chooses what to end, so its counter may still be 0.
        held.kill("out-of-memory")

    def _hear_what_was_said(self, held: Held) -> None:
        """What its agent and its maker said last comes before its end."""
        for channel in (held.agent, held.keeper):
            while channel and self.loop.watches(channel.fileno()) and waiting.readable(channel):
                self._hear_inner(held, channel)
        maker = held.slot.maker
        while maker and maker is held.slot.maker and waiting.readable(maker.channel):
            self._hear_maker(held.slot)

    def _end(self, held: Held) -> None:
        """Pid 1 is gone, and with it all processes of the container."""
        held.ending = True
        self._hear_what_was_said(held)
        if held.reason is None and held.group.oom_kills() > 0:
            held.reason = "out-of-memory"
        for run in list(held.runs.values()) if held.ready else ():
            if held.reason is None:
                held.reason = "killed"
            self._say_exited(held, run, {"signal": int(signal.SIGKILL)}, None)
        over = wiring.as_message(NoSuchContainer(f"find container `{held.id}`: it has ended"))
        for asking in cells.unanswered(held):
            self.answer(asking, over)  # type: ignore[arg-type] # as in `_on_agent`
        for channel in (held.agent, held.keeper):
            self.forget(channel.fileno() if channel else -1)
        for descriptor in (held.pidfd, held.oom_fd):
            self.forget(descriptor)
        outputs.end(self.loop, held)
        if held.order.get("record") and held.ready:
            self.records[held.id] = telling.of_ended(held)
        owner = self._owners.pop(held.id, None)
        del self._containers[held.id]
        held.log.wake()
        if held.ready:
            self.tell("ended", held, reason=held.reason)
        self._ended_networks.add(held.take_network())
        failure: SandboxError | None = None
        try:
            held.end()
        except (SandboxError, OSError) as error:
            failure = StepFailed("remove", held.id, str(error))
            # Said in any case, and tried again by the sweep of the next start.
            print(f"sandbox-kernel: {failure}", file=sys.stderr, flush=True)
        removers = held.order.pop("waiting", ())

        def gone() -> None:
            for client in removers:
                self.answer(client, wiring.as_message(failure) if failure else {"event": "removed"})

        self._wire.unplug(held.id, gone)
        if not held.ready:
            refused = held.order.get("refused")
            self.answer(owner, refused or wiring.as_message(telling.why_not_made(held)))
        for run in held.runs.values():
            _let_go(run)
        if client_held := owner:
            client_held.held = None
        self.pool.ended(held)


def _is_nest(held: Held) -> bool:
    return bool(held.order.get("nest"))


def _let_go(run: Run) -> None:
    """A run and its client know each other no more, so both are freed now, not at a collection."""
    client, run.client = run.client, None
    if isinstance(client, Client):
        client.run = None


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors; None at the end. Raises BlockingIOError, ValueError."""
    try:
        return messages.receive(channel, messages.DONT_WAIT)
    except ConnectionError:
        return None
