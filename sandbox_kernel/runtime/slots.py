"""Slots: places for containers, one after another, each with its user namespace and its maker.

The launcher has slots of its own, and each nest has some (see `templates`). Making a user namespace
and starting a maker costs as much as a container, so both are kept for the next one. The namespace
holds nothing that a container without capabilities could change: its id maps can be written once,
and key rings, further namespaces and limits of them are closed. One whose container had
capabilities, or no filter of system calls, is not used again.
"""

from __future__ import annotations

import os
import socket
import time

from sandbox_kernel.errors import HostLacks, StepFailed
from sandbox_kernel.linux import messages, processes
from sandbox_kernel.runtime import identities, maker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Protocol

    class Owner(Protocol):
        """What a launcher does for its slots."""

        sources_folder: str

        def ways_home(self) -> list[int]: ...
        def hear_maker_of(self, slot: Slot) -> None: ...
        def forget(self, descriptor: int) -> None: ...


MOST_IN_NEST = 64
"""Ranges of ids that a nest has; the first is the template's own."""
MOST_WAITING = 4
"""How many free slots keep their processes; others start them anew when they are used."""
WAITING_SECONDS = 20.0
"""And for how long."""


class Slot:
    """A place for one container after another."""

    __slots__ = ("container", "firsts", "forker", "maker", "number", "used", "user")

    def __init__(self, number: int, user: int, firsts: list[int] | None) -> None:
        self.number = number
        self.user = user
        """Its user namespace, a descriptor."""
        self.firsts = firsts
        """First host ids of its ranges: one, or as many as a nest has slots; None where all ids are
        the same (an ordinary user)."""
        self.maker: maker.Maker | None = None
        self.forker: socket.socket | None = None
        """In a nest: to the fork of the template that has joined the user namespace."""
        self.container: str | None = None
        self.used = time.monotonic()


class Slots:
    """The slots in one pid namespace: the launcher's own, or those of a nest."""

    def __init__(self, owner: Owner, reserve: identities.Reserve | None, ids: int) -> None:
        self._owner = owner
        self._reserve = reserve
        self._ids = ids
        self._free: list[Slot] = []
        self._all: set[Slot] = set()
        self._pid: int | None = None
        self._stopped = False
        """Whether what is free is to have no processes, until somebody takes one again."""

    def take(self, container: str, *, ranges: int = 1) -> Slot:
        """A slot for a container: the one that was free for the shortest time, or a new one.

        With more `ranges` of ids than one it is a new one. Raises HostLacks when all are taken,
        StepFailed, OSError.
        """
        self._stopped = False
        slot = self._take_free() if self._free and ranges == 1 else self._new(ranges)
        slot.container = container
        return slot

    def _take_free(self) -> Slot:
        slot = next((slot for slot in reversed(self._free) if slot.maker), self._free[-1])
        self._free.remove(slot)
        return slot

    def give_back(self, slot: Slot, *, reuse: bool) -> None:
        """Its container is gone."""
        slot.container = None
        slot.used = time.monotonic()
        if slot not in self._all:
            return
        if not reuse:
            self._drop(slot)
            return
        self._free.append(slot)
        waiting = self._waiting()
        for one in waiting[: max(0, len(waiting) - (0 if self._stopped else MOST_WAITING))]:
            self.rest(one)

    def prepare(self) -> None:
        """Have a slot ready, with its maker. Raises HostLacks, StepFailed, OSError."""
        if not self._free:
            self._free.append(self._new(1))
        self.maker_of(self._free[-1])

    def maker_of(self, slot: Slot) -> maker.Maker:
        """Who makes containers in a slot, started when nobody does. Raises StepFailed, OSError."""
        if slot.maker is None:
            slot.maker = self._start_maker(slot, None)
            self._owner.hear_maker_of(slot)
        return slot.maker

    def join_network(self, slot: Slot, network: int) -> None:
        """Another maker, in a network namespace that is there. Raises StepFailed, OSError."""
        self.rest(slot)
        slot.maker = self._start_maker(slot, network)
        self._owner.hear_maker_of(slot)

    def _start_maker(self, slot: Slot, network: int | None) -> maker.Maker:
        home, hidden = self._owner.ways_home(), self._owner.sources_folder
        return maker.start(slot.user, self._pid, home, hidden, network)

    def spare(self, slot: Slot) -> None:
        """Its container needs no maker for now: it may go, if there are many."""
        if sum(1 for other in self._all if other.maker) > MOST_WAITING:
            self.rest(slot)

    def rest(self, slot: Slot) -> None:
        """End the processes of a slot in which nothing is just being made."""
        if slot.maker is not None:
            self._owner.forget(slot.maker.channel.fileno())
            slot.maker.close()
            slot.maker = None
        self.close_forker(slot)

    def close_forker(self, slot: Slot) -> None:
        """Let the template's fork go, which ends it."""
        if slot.forker is not None:
            self._owner.forget(slot.forker.fileno())
            slot.forker.close()
            slot.forker = None

    def _waiting(self) -> list[Slot]:
        """Free slots with processes, longest unused first."""
        return [slot for slot in self._free if slot.maker or slot.forker]

    def rest_idle(self, now: float) -> float | None:
        """End the processes of free slots that nobody used for a while (monotonic clock).

        Returns when there will be more to end.
        """
        for slot in self._waiting():
            if slot.used + WAITING_SECONDS <= now:
                self.rest(slot)
        return min((slot.used + WAITING_SECONDS for slot in self._waiting()), default=None)

    def rest_all(self) -> None:
        """End the processes of all free slots, and of those that become free."""
        self._stopped = True
        for slot in self._waiting():
            self.rest(slot)

    def close(self) -> None:
        """All containers in them are over."""
        for slot in list(self._all):
            self._drop(slot)
        self._free.clear()

    def _new(self, ranges: int) -> Slot:
        firsts: list[int] | None = None if self._reserve is None else []
        try:
            while firsts is not None and self._reserve and len(firsts) < ranges:
                firsts.append(self._reserve.take())
            made, user = maker.start_in_new_namespace(
                lambda pid: identities.write_maps(pid, firsts, self._ids), self._owner.ways_home()
            )
        except BaseException:
            self._give_back(firsts)
            raise
        slot = Slot(len(self._all), user, firsts)
        slot.maker = made
        self._all.add(slot)
        self._owner.hear_maker_of(slot)
        return slot

    def _drop(self, slot: Slot) -> None:
        self.rest(slot)
        os.close(slot.user)
        self._all.discard(slot)
        self._give_back(slot.firsts)

    def _give_back(self, firsts: list[int] | None) -> None:
        if self._reserve is not None:
            for first in firsts or ():
                self._reserve.give_back(first)


class Nest(Slots):
    """Slots in the namespaces of a template's container, with the ids that the nest has."""

    def __init__(
        self, owner: Owner, user: int, pid: int, ranges: list[int] | None, ids: int
    ) -> None:
        super().__init__(owner, None, ids)
        self._user = os.dup(user)
        self._pid = os.dup(pid)
        self._ranges = ranges
        self._numbers = list(range(MOST_IN_NEST - 1, 0, -1))

    def close(self) -> None:
        super().close()
        os.close(self._user)
        if self._pid is not None:
            os.close(self._pid)

    def _new(self, ranges: int) -> Slot:
        if not self._numbers:
            raise HostLacks(f"make one more container in the nest: it has {len(self._all)} already")
        number = self._numbers[-1]
        slot = Slot(
            number,
            self._user_namespace(number),
            None if self._ranges is None else [self._ranges[number]],
        )
        self._numbers.pop()
        self._all.add(slot)
        return slot

    def _drop(self, slot: Slot) -> None:
        super()._drop(slot)
        self._numbers.append(slot.number)

    def _user_namespace(self, number: int) -> int:
        """A child of the nest's user namespace, with the ids of the slot.

        Made outside the nest's pid namespace: a process with no ids yet has to be dumpable, and the
        template may not reach one that is.
        """
        ours, theirs = messages.pair()
        with ours:
            helper = os.fork()
            if helper == 0:
                self._make_user_namespace(theirs, number)
            theirs.close()
            received = messages.receive(ours)
            os.waitpid(helper, 0)
        if received is None or not received[1]:
            why = received[0].get("why") if received else "a helper ended"
            raise StepFailed("make", "a user namespace in the nest", str(why))
        return received[1][0]

    def _make_user_namespace(self, channel: socket.socket, number: int) -> NoReturn:
        try:
            processes.setns(self._user, processes.CLONE_NEWUSER)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            # The maps of a process that is not dumpable belong to root of the machine.
            processes.prctl(processes.PR_SET_DUMPABLE, 1)
            firsts = None if self._ranges is None else (number * identities.RANGE,)
            made = identities.user_namespace(firsts, self._ids)
            messages.send(channel, {}, [made])
        except BaseException as error:
            messages.send(channel, {"why": repr(error)})
        os._exit(0)
