"""The networks of this user and what goes on in them, as plain data; and the changes of them.

Containers are named as everywhere: by name, id, or the beginning of one id.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sandbox_kernel import container, errors
from sandbox_kernel.network import protocol
from sandbox_kernel.network.client import Holder
from sandbox_kernel.network.protocol import Shape


def list_all() -> list[dict[str, Any]]:
    """All networks: name, addresses, gateway, whether there is a way out, containers.

    `ready` is how many containers wait there that nobody has been given yet.
    """
    holder = Holder.find()
    if holder is None:
        return []
    with holder:
        found = holder.ask(protocol.Networks())["networks"]
    given = _given()
    return [_without_ready(network, given) for network in found]


def create(name: str) -> dict[str, Any]:
    """A named network that stays until it is removed. Raises InvalidOption, StepFailed."""
    with Holder.start() as holder:
        return _without_event(holder.ask(protocol.Create(name=name)))


def remove(name: str) -> None:
    """End a network without containers. Raises StepFailed."""
    with _holder(name) as holder:
        holder.ask(protocol.Remove(name=name))


def inspect(name: str) -> dict[str, Any]:
    """One network. Raises StepFailed."""
    with _holder(name) as holder:
        found = _without_event(holder.ask(protocol.Inspect(name=name)))
    return _without_ready(found, _given())


def connect(network: str, reference: str) -> dict[str, Any]:
    """One more network for a container that lives: its link, address, hardware address."""
    made = container.match(reference).id
    with _holder(reference) as holder:
        return _without_event(holder.ask(protocol.Connect(container=made, network=network)))


def disconnect(network: str, reference: str) -> None:
    """One network less for it."""
    made = container.match(reference).id
    with _holder(reference) as holder:
        holder.ask(protocol.Disconnect(container=made, network=network))


def facts(reference: str) -> dict[str, Any]:
    """All that is known of a container's network. Raises NoSuchContainer, StepFailed."""
    made = container.match(reference).id
    with _holder(reference) as holder:
        found = _without_event(holder.ask(protocol.Facts(container=made)))
    given = _given()
    for link in found["networks"]:
        link["neighbours"] = {
            each["name"] or key: each["address"]
            for key, each in link["neighbours"].items()
            if key in given
        }
    return found


def change(
    reference: str,
    *,
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
    shape: Shape | None = None,
) -> None:
    """Entries for the allow-list of a container that lives, or off it; how fast its link is.

    Each acts at once. Whether the caller may is decided before: see `policy.change`.
    """
    made = container.match(reference).id
    wished = protocol.Change(container=made, add=list(add), drop=list(drop), shape=shape)
    with _holder(reference) as holder:
        holder.ask(wished)


def drops(reference: str | None, after: int = 0) -> dict[str, Any]:
    """Packets that were not let through after a position: `drops`, `next`, `missed`."""
    made = None if reference is None else container.match(reference).id
    with _holder(reference or "networks") as holder:
        return _without_event(holder.ask(protocol.Drops(container=made, after=after)))


def watch_drops(reference: str | None) -> Iterator[dict[str, Any]]:
    """Those that were, and then each as the kernel tells of it, without end.

    Raises StepFailed when the holder of the networks ends.
    """
    made = None if reference is None else container.match(reference).id
    position = 0
    with _holder(reference or "networks") as holder:
        while True:
            told = holder.wait_for(protocol.Drops(container=made, after=position, wait=True))
            yield from told["drops"]
            position = told["next"]


def open_capture(reference: str) -> socket.socket:
    """A socket that sees the packets of a container: see `network.capture`. The caller's."""
    made = container.match(reference).id
    with _holder(reference) as holder:
        return socket.socket(fileno=holder.ask_for_descriptor(protocol.Capture(container=made)))


def _given() -> set[str]:
    """The containers that are somebody's; what is ready for the next one is none of them."""
    return {listed.id for listed in container.list_all()}


def _without_ready(network: dict[str, Any], given: set[str]) -> dict[str, Any]:
    members = network["containers"]
    shown = {key: each for key, each in members.items() if key in given}
    return {**network, "containers": shown, "ready": len(members) - len(shown)}


@contextmanager
def _holder(what: str) -> Iterator[Holder]:
    """The holder that is there: what nobody started holds nothing."""
    found = Holder.find()
    if found is None:
        raise errors.StepFailed("find", errors.shown(what), "there is no network of yours here")
    with found:
        yield found


def _without_event(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in ("event", "tag")}
