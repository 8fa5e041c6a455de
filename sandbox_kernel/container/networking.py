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
def shared(plan: ContainerPlan) -> Iterator[tuple[int, ...]]:
    """The descriptors that go with the order: the namespace of the container whose network it has.

    Raises NoSuchContainer.
    """
    name = shares(plan)
    if name is None:
        yield ()
        return
    from sandbox_kernel.container import finding  # which knows containers

    other = finding.find(name)
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


def holder(plan: ContainerPlan) -> contextlib.AbstractContextManager[object]:
    """The holder of networks, started if there is none. Raises HostLacks, StepFailed."""
    from sandbox_kernel.network.client import Holder  # seldom needed, and heavy

    return Holder.start(addresses=plan.network_range, hardware=plan.network_hardware)
