"""The launcher's pool: templates, and containers that are ready before somebody asks.

    a request with `warm` ---- template there? -- no --> its container is made cold, and the
                                    |                    template is started for the next one
                                   yes
                                    |
                     ready container of this recipe? -- yes --> given to the caller, at once
                                    |
                                   no -----------------> made in the nest, then given to the caller

Afterwards as many are made as were lately wanted at once, one after another, when the launcher has
nothing else to do. No container is given to two callers: it is taken out of the table first.
"""

from __future__ import annotations

import base64
import os
import socket
import sys
import time
from collections import deque

from sandbox_kernel.errors import SandboxError, StepFailed
from sandbox_kernel.linux import messages
from sandbox_kernel.runtime import templates
from sandbox_kernel.runtime.held import Held, Run, prepare
from sandbox_kernel.runtime.slots import MOST_IN_NEST, Nest, Slot
from sandbox_kernel.runtime.templates import Demand, Ready, Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox_kernel.runtime.containers import Client, Containers

IDLE_SECONDS = 120.0
"""After which a template that nobody used is dropped."""
DEMAND_SECONDS = 20.0
"""After which containers of a kind that nobody wanted are dropped."""
HOLDER_SECONDS = 600.0
"""The same of a warm holder, which itself ends then (D2)."""
TICK_SECONDS = 1.0
HURRY_SECONDS = 0.05
"""Of a kind that is wanted again so soon, containers are made as cheaply as can be and not to
answer fast: what their callers wait for is the processors."""
MOST = 8
MOST_KERNELS = 2
"""How many of a kind a holder has ready: a kernel is larger than a cell, and rarer."""
MOST_TEMPLATES = 4
MOST_ORDERS = 32
MANY = 2
"""So many requests make a template worth its start."""
LEAST_AVAILABLE = 0.1
"""Of the machine's memory: below it, all that only waits is dropped."""
REFUSED_SECONDS = 30.0
"""How long a template that could not be made is not tried again."""


class Pool:
    """All templates of one launcher, and what is in their nests."""

    def __init__(self, containers: Containers, *, holds: bool) -> None:
        """`holds`: of a warm holder, which keeps kernels, and for longer."""
        self._most = MOST_KERNELS if holds else MOST
        self._lean = holds
        """Whether a slot has no processes while somebody uses its container."""
        self._idle = HOLDER_SECONDS if holds else IDLE_SECONDS
        self._demand = HOLDER_SECONDS if holds else DEMAND_SECONDS
        self._containers = containers
        self._templates: dict[str, Template] = {}
        self._by_nest: dict[str, Template] = {}
        self._by_container: dict[str, Ready] = {}
        self._orders: dict[str, tuple[dict[str, Any], int]] = {}
        """By template: how its nest is made, and the program that runs there."""
        self._failed: dict[str, tuple[float, str]] = {}
        self._refused: dict[str, dict[str, str]] = {}
        """By template: modules that can't be in it, and why."""
        self._filters = templates.own_filters() + 2
        self._asked: dict[str, int] = {}
        self._stopped: list[Callable[[], None]] = []
        self.next_tick: float | None = None
        self.last_use = time.monotonic()

    # --- requests

    def knows(self, key: str, message: dict[str, Any], owned: list[int]) -> bool:
        """Whether it is known how this template is made; a request may say so.

        Then the last of its descriptors is the template's program.
        """
        order = message.pop("template", None)
        if order is None:
            return key in self._orders
        program = owned.pop()
        if key in self._orders:
            os.close(program)
            return True
        while len(self._orders) >= MOST_ORDERS:
            os.close(self._orders.pop(next(iter(self._orders)))[1])
        own = {
            "template": order.pop("process"),
            "closing": base64.b64decode(order.pop("closing_program")),
            "recipe": f"template {key}",
        }
        self._orders[key] = ({**prepare(order), **own}, program)
        return True

    def take(self, client: Client, message: dict[str, Any], owned: list[int]) -> bool:
        """Run a request in a warm container. False: it has to be made cold."""
        warm = message["warm"]
        template = self._template(warm, message)
        if template is None or not template.can_make:
            self._remember(template, message)
            template = self._stand_in(warm["family"])
        if template is None:
            return False
        template.used = self.last_use = time.monotonic()
        recipe = message["recipe"]
        demand = self._remember(template, message)
        waiting = template.ready.get(recipe, deque())
        hostname = message["hostname"] if message["hostname"] != message["id"] else None
        while waiting and hostname is None:
            ready = waiting.popleft()
            if ready.channel and templates.listening(ready.channel):
                self._give(ready, client, message, owned)
                if not waiting:
                    self._want(template, recipe)
                return True  # else one is made when this cell is over, which is soon
            self._discard(ready, "its process is gone")
        if hostname is None and self._give_other(template, client, message, owned):
            self._want(template, recipe)
            return True
        # Nobody waits: one is made for this caller, and next time there is one more.
        demand.wanted = min(self._most, demand.wanted + 1)
        numbers = list(owned)
        owned.clear()
        order = dict(message)
        try:
            ready = self._make(template, order if hostname else _blank(message), recipe)
        except (SandboxError, OSError):
            owned.extend(numbers)
            return False
        ready.claim = _Claim(self, ready, client, message, numbers)
        return True

    def _give_other(
        self, template: Template, client: Client, message: dict[str, Any], owned: list[int]
    ) -> bool:
        """Give a container that waits for somebody with other limits, when it can be given these.

        Only limits that the new ones replace: what has one more can't be rid of it for sure.
        """
        wanted = message["config"]["linux"].get("resources", {})
        for waiting in template.ready.values():
            for ready in list(waiting):
                order = ready.held.order
                has = order["config"]["linux"].get("resources", {})
                if order["kind"] != message["kind"] or not _replaces(wanted, has):
                    break  # so are all of this recipe
                waiting.remove(ready)
                if ready.channel is None or not templates.listening(ready.channel):
                    self._discard(ready, "its process is gone")
                    continue
                try:
                    ready.held.group.update(wanted)
                    ready.held.limits = ready.held.group.limits()
                except (SandboxError, OSError) as error:
                    self._discard(ready, str(error))
                    return False
                order.update(config=message["config"], recipe=message["recipe"])
                self._give(ready, client, message, owned)
                return True
        return False

    @staticmethod
    def _remember(template: Template | None, message: dict[str, Any]) -> Demand:
        """That such a container is wanted, also of a template that is still on its way."""
        demand = template.demand.get(message["recipe"]) if template else None
        if demand is None:
            demand = Demand(_blank(message))
            if template:
                template.demand[message["recipe"]] = demand
        else:
            demand.hurry = time.monotonic() - demand.used < HURRY_SECONDS
        demand.used = time.monotonic()
        return demand

    def _stand_in(self, family: str) -> Template | None:
        """A template that has other modules, but is there."""
        there = (t for t in self._templates.values() if t.family == family and t.can_make)
        return max(there, key=_last_use, default=None)

    def expect(self, message: dict[str, Any]) -> None:
        """Have a container ready for requests like this one."""
        self._asked[message["warm"]["key"]] = MANY
        template = self._template(message["warm"], message)
        if template is not None:
            template.used = self.last_use = time.monotonic()
            template.demand.setdefault(message["recipe"], Demand(_blank(message)))
            self._want(template, message["recipe"])

    def bounds(self) -> dict[str, Any]:
        """How much is kept, and for how long."""
        return {
            "ready": self._most,
            "templates": MOST_TEMPLATES,
            "ready_seconds": self._demand,
            "template_seconds": self._idle,
            "least_available": LEAST_AVAILABLE,
        }

    def status(self) -> list[dict[str, Any]]:
        """What there is, for `pool status`."""
        now = time.monotonic()
        return [
            {
                "template": template.key,
                "container": template.held.id,
                "modules": template.modules,
                "refused": self._refused.get(template.key, {}),
                "state": "over" if template.over else "ready" if template.running else "starting",
                "ready": sum(len(waiting) for waiting in template.ready.values()),
                "in_use": sum(map(self._in_use, template.containers)),
                "idle_seconds": round(now - template.used, 1),
                "usage": template.held.usage(),
            }
            for template in self._by_nest.values()
        ]

    def only_waits(self, held: Held) -> bool:
        """Whether nobody has this container: it is a nest, or ready, or on the way."""
        return held.id in self._by_nest or (held.id in self._by_container and not held.single)

    def stop(self, reason: str, done: Callable[[], None] = lambda: None) -> None:
        """Drop all that waits; what is in use goes on to its end. `done` when all is dropped."""
        for template in list(self._templates.values()):
            self._retire(template, reason)
        self._asked.clear()
        self._containers.drop_kept()
        self._stopped.append(done)
        self._tell_stopped()

    def networks_ended(self) -> None:
        """Drop what waits with a network that is gone."""
        for template in self._by_nest.values():
            for waiting in template.ready.values():
                for ready in list(waiting):
                    if ready.held.order.get("network"):
                        self._discard(ready, "its network ended")

    def _tell_stopped(self) -> None:
        """Nests with containers in use stay; all the others have to be gone."""
        waiting = any(
            not (template.over and any(map(self._in_use, template.containers)))
            for template in self._by_nest.values()
        )
        while self._stopped and not waiting:
            self._stopped.pop()()

    def _in_use(self, container: str) -> bool:
        ready = self._by_container.get(container)
        return ready is not None and ready.held.single

    # --- templates

    def _template(self, warm: dict[str, Any], message: dict[str, Any]) -> Template | None:
        key = warm["key"]
        template = self._templates.get(key)
        if template is not None:
            return template
        failed = self._failed.get(key)
        if failed and time.monotonic() < failed[0]:
            return None
        self._failed.pop(key, None)
        # Who asks once may never ask again, and importing takes a while.
        self._asked[key] = self._asked.get(key, 0) + 1
        if self._asked[key] < MANY:
            return None
        while len(self._templates) >= MOST_TEMPLATES:
            self._retire(min(self._templates.values(), key=_last_use), "newer templates")
        refused = self._refused.setdefault(key, {})
        modules = [name for name in warm["modules"] if name not in refused]
        try:
            return self._start(key, warm["family"], modules, message)
        except (SandboxError, OSError) as error:
            self._fail(key, str(error))
            return None

    def _start(
        self, key: str, family: str, modules: list[str], message: dict[str, Any]
    ) -> Template:
        order, program = self._orders[key]
        ours, theirs = messages.pair()
        wanted = {
            **order,
            "id": os.urandom(6).hex(),
            "name": None,
            "hostname": "template",
            "about": {**message["about"], "command": [], "program": "template"},
            "created": time.time(),
            "nest": True,
            "ranges": MOST_IN_NEST,
            "wants_namespaces": True,
        }
        try:
            held = self._containers.make(wanted)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        template = Template(key, family, held, ours, theirs, os.dup(program), modules)
        template.message = {name: message[name] for name in ("about", "warm")}
        # Not that of the request, which is for one cell alone.
        template.environment = order["template"].get("env", [])
        self._templates[key] = self._by_nest[held.id] = template
        begin = {
            "main": template.message["warm"]["main"],
            "modules": modules,
            "filter": order["closing"].hex(),
            "environment": _environment(template.environment),
        }
        messages.send(ours, begin)
        self._containers.watch(ours.fileno(), lambda: self._hear_template(template))
        self._tick_soon()
        return template

    def _hear_template(self, template: Template) -> None:
        try:
            received = messages.receive(template.control, messages.DONT_WAIT)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            self._retire(template, "its interpreter ended")
            if not template.running:
                self._fail(template.key, "its interpreter ended before it was ready")
            return
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        if "ready" in message:
            template.running = True
            for recipe in template.demand:
                self._want(template, recipe)
        elif "refused" in message:
            name, why = str(message["refused"])[:200], str(message.get("why"))[:600]
            self._refused.setdefault(template.key, {})[name] = why
            self._containers.tell_template("module-refused", template, module=name, why=why)
            self._retire(template, f"module `{name}` can't be in it: {why}")
            rest = [module for module in template.modules if module != name]
            try:
                again = self._start(template.key, template.family, rest, template.message)
                again.demand = template.demand
            except (SandboxError, OSError) as error:
                self._fail(template.key, str(error))

    def _retire(self, template: Template, reason: str) -> None:
        """No more forks: what waits is dropped, what is in use goes on in the nest."""
        if template.over:
            return
        template.over = True
        if self._templates.get(template.key) is template:
            del self._templates[template.key]
        self._containers.forget(template.control.fileno())
        template.control.close()
        template.theirs.close()
        if template.program >= 0:
            os.close(template.program)
            template.program = -1
        for waiting in template.ready.values():
            for ready in list(waiting):
                self._discard(ready, reason)
        template.ready.clear()
        for ready in list(template.on_the_way.values()):
            self._discard(ready, reason)
        self._end_if_empty(template)

    def _end_if_empty(self, template: Template) -> None:
        if template.over and not template.containers:
            template.held.kill("its template is over")

    def _fail(self, key: str, why: str) -> None:
        self._failed[key] = (time.monotonic() + REFUSED_SECONDS, why)
        print(f"sandbox-kernel: make template: {why}", file=sys.stderr, flush=True)

    # --- containers in nests

    def _make(self, template: Template, order: dict[str, Any], recipe: str) -> Ready:
        assert template.nest is not None
        own = {"wants_namespaces": True, "pooled": True}
        held = self._containers.make({**order, **own}, template.nest)
        ready = Ready(template, held, recipe)
        self._by_container[held.id] = template.on_the_way[held.id] = ready
        template.containers.add(held.id)
        if recipe in template.demand:
            template.demand[recipe].making += 1
        return ready

    def made(self, held: Held) -> bool:
        """A container was made. Whether it is a nest, or made for the pool."""
        template = self._by_nest.get(held.id)
        if template is not None:
            self._start_interpreter(template)
            return True
        ready = self._by_container.get(held.id)
        if ready is None:
            return False
        self._enter(ready)
        return True

    def _start_interpreter(self, template: Template) -> None:
        """The nest is there: its interpreter imports, while containers are made already."""
        held = template.held
        program, template.program = template.program, -1
        try:
            numbers = {3: program, templates.CONTROL: template.theirs.detach()}
            process = held.order["template"]
            process = {**process, "env": [*template.environment, templates.BIND_NOW]}
            self._containers.start_template(held, process, numbers)
            user, pid = held.namespaces["user"], held.namespaces["pid"]
            template.nest = Nest(
                self._containers, user, pid, held.slot.firsts, self._containers.ids
            )
        except (SandboxError, OSError) as error:
            self._retire(template, str(error))
            self._fail(template.key, str(error))
            return
        for recipe in template.demand:
            self._want(template, recipe)

    def maker_ended(self, held: Held) -> None:
        """Who makes in the slot of this container is gone, and comes again with the next one."""
        ready = self._by_container.get(held.id)
        if ready is not None and held.id in ready.template.on_the_way and held.pidfd >= 0:
            self._discard(ready, "the maker of it ended")

    def _end_slot(self, template: Template, slot: Slot, why: str) -> None:
        """Who forked in it is gone; what was on its way there goes another way."""
        assert template.nest is not None
        template.nest.close_forker(slot)
        for ready in [r for r in template.on_the_way.values() if r.held.slot is slot]:
            self._discard(ready, why)

    def _enter(self, ready: Ready) -> None:
        """A container was made: the template is asked for a child in it."""
        template, slot = ready.template, ready.held.slot
        if ready.held.reason is not None:
            return  # it was given up meanwhile, and ends
        if template.over:
            self._discard(ready, "its template is over")
            return
        ours, theirs = messages.pair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ready.channel = ours
        try:
            with theirs:
                if slot.forker is None:
                    self._open_forker(template, slot)
                assert slot.forker is not None
                templates.ask_for_child(
                    ready.held, slot.forker, theirs, rehearses=self._has_time(ready)
                )
        except OSError as error:
            self._discard(ready, f"ask its template: {error}")
            return
        self._containers.watch(ours.fileno(), lambda: self._hear_child(ready))

    @staticmethod
    def _has_time(ready: Ready) -> bool:
        """Whether it will wait for its caller for a while, and not its caller for it."""
        demand = ready.template.demand.get(ready.recipe)
        return ready.claim is None and not (demand and demand.hurry)

    def _open_forker(self, template: Template, slot: Slot) -> None:
        forker = templates.open_forker(template, slot)
        self._containers.watch(forker.fileno(), lambda: self._hear_forker(template, slot))

    def _hear_forker(self, template: Template, slot: Slot) -> None:
        """It says when it could not fork; else only its end is heard."""
        assert slot.forker is not None
        try:
            received = messages.receive(slot.forker, messages.DONT_WAIT)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            self._end_slot(template, slot, "the template's fork ended")
            return
        message, descriptors = received
        for descriptor in descriptors:
            os.close(descriptor)
        ready = template.on_the_way.get(str(message.get("failed")))
        if ready is not None:
            self._discard(ready, f"fork: {message.get('why')}")

    def _let_go_of(self, template: Template) -> None:
        """The makers end and are reaped: pid 1 of the nest can't end before."""
        if template.nest is not None:
            nest, template.nest = template.nest, None
            nest.close()
        for container in list(template.containers):
            ready = self._by_container.get(container)
            if ready is not None and ready.held.pidfd < 0:
                self._containers.not_made(ready.held)

    def close(self) -> None:
        """The launcher ends; all containers have been killed."""
        for template in self._by_nest.values():
            self._let_go_of(template)

    def _hear_child(self, ready: Ready) -> None:
        """The child is in the container, or says why not."""
        assert ready.channel is not None
        template = ready.template
        self._containers.forget(ready.channel.fileno())
        try:
            heard = templates.hear_child(ready.channel)
            if heard is None:
                raise StepFailed("enter", ready.held.id, "the template's child ended")
            message, pid = heard
            if "failed" in message:
                raise StepFailed(str(message["failed"]), ready.held.id, str(message.get("why")))
            ready.pidfd = os.pidfd_open(pid)
            ready.pid = templates.check_child(ready.held, template.held, pid, filters=self._filters)
        except (SandboxError, OSError, ValueError, KeyError) as error:
            # Whoever can't be trusted with one child can't with another.
            self._containers.tell_template("template-distrusted", template, why=str(error))
            self._discard(ready, str(error))
            self._retire(template, str(error))
            self._fail(template.key, str(error))
            return
        template.on_the_way.pop(ready.held.id, None)
        template.inside[ready.pid] = ready
        ready.held.let_namespaces_go()
        if self._lean and template.nest is not None:
            template.nest.rest(ready.held.slot)
        demand = template.demand.get(ready.recipe)
        if demand is not None:
            demand.making -= 1
        if ready.claim is not None:
            claim, ready.claim = ready.claim, None
            claim()
        else:
            template.ready.setdefault(ready.recipe, deque()).append(ready)
        self._want(template, ready.recipe)

    def _give(
        self, ready: Ready, client: Client, message: dict[str, Any], owned: list[int]
    ) -> None:
        """The container is the caller's from here on."""
        held = ready.held
        numbers = dict(zip(message["numbers"], owned, strict=True))
        run = held.runs[0] = Run(0, client, None, message.get("timeout"))
        process = message["process"]
        wanted = process.get("env", [])
        order = {
            "numbers": list(numbers),
            "environment": None if wanted == ready.template.environment else _environment(wanted),
            "directory": process.get("cwd") or "/",
        }
        for name in ("name", "about", "plan"):
            held.order[name] = message.get(name)
        held.order["created"] = time.time()
        held.single = True
        self._containers.bind(held, client, run)
        # The caller first: the child may get this very processor as soon as it is woken, and he
        # would hear of its beginning after its end.
        self._containers.started(held, run, ready.pidfd, client)
        try:
            templates.give(ready, order, list(numbers.values()))
        except OSError:
            held.kill("its process ended before it was used")

    def reaped(self, nest: Held, message: dict[str, Any]) -> None:
        """A child of the template ended; pid 1 of the nest has it from the kernel."""
        template = self._by_nest.get(nest.id)
        ready = template.inside.pop(int(message["pid"]), None) if template else None
        if ready is None:
            return
        if ready.held.runs:
            self._containers.exited(ready.held, {"run": 0, **message})
            self._want(ready.template, ready.recipe)
        else:
            self._discard(ready, "its process ended")

    def finished(self, held: Held) -> None:
        """A container has done what it was for, and ends: the next is made."""
        ready = self._by_container.get(held.id)
        if ready is not None:
            self._want(ready.template, ready.recipe)

    def _discard(self, ready: Ready, reason: str) -> None:
        """A container that nobody has, or whose caller has to go another way."""
        template = ready.template
        if template.on_the_way.pop(ready.held.id, None) is not None:
            demand = template.demand.get(ready.recipe)
            if demand is not None:
                demand.making -= 1
        waiting = template.ready.get(ready.recipe)
        if waiting is not None and ready in waiting:
            waiting.remove(ready)
        self._close_channel(ready)
        if ready.held.id in self._by_container:
            ready.held.kill(reason)
        claim, ready.claim = ready.claim, None
        if isinstance(claim, _Claim):
            claim.go_cold()

    def _close_channel(self, ready: Ready) -> None:
        if ready.channel is not None:
            self._containers.forget(ready.channel.fileno())
            ready.channel.close()
            ready.channel = None

    def ended(self, held: Held) -> None:
        """A container is over, whoever's it was."""
        ready = self._by_container.pop(held.id, None)
        if ready is not None:
            self._discard(ready, "it ended")
            template = ready.template
            template.containers.discard(held.id)
            if template.inside.get(ready.pid) is ready:
                del template.inside[ready.pid]
            if ready.pidfd >= 0:
                os.close(ready.pidfd)
                ready.pidfd = -1
            self._end_if_empty(template)
            self._tell_stopped()
            return
        nested = self._by_nest.pop(held.id, None)
        if nested is not None:
            self._let_go_of(nested)
            self._retire(nested, "its nest ended")
            if not self._by_nest:
                self._containers.drop_kept()
            self._tell_stopped()

    def interpreter_ended(self, held: Held) -> None:
        """The template itself is over; its nest stays until the last container in it is."""
        template = self._by_nest.get(held.id)
        if template is not None:
            self._retire(template, "its interpreter ended")

    # --- how many

    def _want(self, template: Template, recipe: str) -> None:
        """Make one more if there are fewer than lately wanted."""
        demand = template.demand.get(recipe)
        if demand is None or not template.can_make or demand.making:
            return
        if len(template.ready.get(recipe, ())) >= demand.wanted:
            return
        try:
            self._make(template, _blank(demand.order), recipe)
        except (SandboxError, OSError) as error:
            # The next caller gets the true error, when his own can't be made.
            demand.wanted = 0
            print(f"sandbox-kernel: refill the pool: {error}", file=sys.stderr, flush=True)
        self._tick_soon()

    def _tick_soon(self) -> None:
        if self.next_tick is None:
            self.next_tick = time.monotonic() + TICK_SECONDS

    def tick(self) -> None:
        """Drop what nobody uses."""
        now = time.monotonic()
        short = available() < LEAST_AVAILABLE
        for template in list(self._templates.values()):
            if short or now - template.used > self._idle:
                self._retire(template, "memory is short" if short else "nobody used it")
                continue
            if template.nest is not None:
                template.nest.rest_idle(now)
            for recipe, demand in list(template.demand.items()):
                if now - demand.used > self._demand:
                    del template.demand[recipe]
                    for ready in list(template.ready.pop(recipe, ())):
                        self._discard(ready, "nobody wanted it")
        if short or now - self.last_use > self._demand:
            self._containers.drop_kept()
        self.next_tick = now + TICK_SECONDS if self._by_nest else None


class _Claim:
    """A caller who came before his container was ready."""

    def __init__(
        self,
        pool: Pool,
        ready: Ready,
        client: Client,
        message: dict[str, Any],
        owned: list[int],
    ) -> None:
        self._pool = pool
        self._ready = ready
        self._client = client
        self._message = message
        self._owned = owned

    def __call__(self) -> None:
        if self._client.channel.fileno() < 0:  # he did not wait
            self._close()
            self._pool._discard(self._ready, "its caller has gone")
            return
        self._pool._give(self._ready, self._client, self._message, self._owned)
        self._close()

    def go_cold(self) -> None:
        """The warm way failed: the caller's container is made as if there were no template."""
        self._pool._containers.create_cold_later(self._client, self._message, self._owned)
        self._close()

    def _close(self) -> None:
        while self._owned:
            os.close(self._owned.pop())


def available() -> float:
    """The part of the machine's memory that could be used now, 0 to 1 (/proc/meminfo)."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        found = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
    return found.get("MemAvailable", found["MemTotal"]) / found["MemTotal"]


def _environment(entries: list[str]) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in entries)


def _replaces(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether each limit of `old` has a new value in `new`."""
    return all(
        name in new
        and (not isinstance(value, dict) or not isinstance(new[name], dict)
             or set(value) <= set(new[name]))
        for name, value in old.items()
    )  # fmt: skip


def _blank(message: dict[str, Any]) -> dict[str, Any]:
    """The order of a container that nobody has yet."""
    container = os.urandom(6).hex()
    dropped = ("process", "warm", "numbers", "timeout", "single", "outlives", "record", "logged")
    blank = {name: value for name, value in message.items() if name not in dropped}
    return {**blank, "id": container, "hostname": container, "name": None, "created": time.time()}


def _last_use(template: Template) -> float:
    return template.used
