"""What a plan says of the network, as the holder of networks and the launcher are told it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox_kernel import bundle
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.runtime import client, wiring

_SHARED = "container:"


def order(plan: ContainerPlan) -> dict[str, Any] | None:
    """How a container is plugged in; None: it has no network, or not one of its own."""
    if not bundle.is_connected(plan.network):
        return None
    return {
        "network": plan.network,
        "allow": [str(entry) for entry in plan.allow] or None,
        "shape": shape(plan),
        "publish": [
            {"address": port.address, "port": port.port, "inside": port.inside}
            for port in plan.publish
        ],
    }


def shape(plan: ContainerPlan) -> dict[str, Any]:
    """How slow its link is."""
    return {
        "bandwidth": plan.bandwidth or 0,
        "latency": plan.latency or 0.0,
        "loss": plan.loss or 0.0,
    }


def shares(plan: ContainerPlan) -> str | None:
    """The container whose network it has."""
    return plan.network.removeprefix(_SHARED) if plan.network.startswith(_SHARED) else None


def is_here(plan: ContainerPlan, about: Mapping[str, Any]) -> bool:
    """Whether a launcher that somebody started would use the networks of this machine as seen here.

    It was perhaps started in another network namespace.
    """
    return not bundle.is_connected(plan.network) or about.get("space") == wiring.space()


@contextlib.contextmanager
def needed(plan: ContainerPlan) -> Iterator[tuple[int, ...]]:
    """While a container is made: the holder of networks stays, the shared namespace is open.

    Gives the descriptors that go with the order. Raises NoSuchContainer, HostLacks, StepFailed.
    """
    shared = shares(plan)
    if shared is not None:
        from sandbox_kernel.container import finding  # which knows containers

        other = finding.find(shared)
        channel = other.connect()
        try:
            channel.ask("network", {"container": other.id})
            _, (network,) = channel.hear(client.ANSWER_SECONDS)
        finally:
            channel.close()
        try:
            yield (network,)
        finally:
            os.close(network)
    elif bundle.is_connected(plan.network):
        from sandbox_kernel.network.client import Holder  # seldom needed, and heavy

        with Holder.start(addresses=plan.network_range, hardware=plan.network_hardware):
            yield ()
    else:
        yield ()


def change(container: str, before: ContainerPlan, wished: ContainerPlan) -> None:
    """Have another list or shape in force at once. Raises what the holder reports."""
    if (wished.allow, shape(wished)) == (before.allow, shape(before)):
        return
    from sandbox_kernel.network import protocol
    from sandbox_kernel.network.client import Holder

    request = protocol.Change(container=container)
    if wished.allow != before.allow:
        request.allow = [str(entry) for entry in wished.allow]
    if shape(wished) != shape(before):
        request.shape = protocol.Shape(**shape(wished))
    with Holder.start() as holder:
        holder.ask(request)
