"""Opening the views of walls, ways and lives: network, calls, capabilities, plans and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.widgets.live import Opened

if TYPE_CHECKING:
    from sandbox_kernel.container import Container
    from sandbox_kernel.observe import Observed

NETWORK_INTERVAL = 0.5


def network(container: Observed | None, spoken: str | None) -> Opened:
    """The traffic of a container and its neighbours; without one, of all."""
    from sandbox_kernel.observe.source import Polled
    from sandbox_kernel.observe.traffic import Traffic
    from sandbox_kernel.widgets.network import NetworkView

    held = None if container is None else _container(container, "network")
    traffic = Traffic(None if held is None else held.id)
    name, pid = ("", None) if held is None else (held.name, held.pid)
    return Opened(
        view=NetworkView(name, spoken),
        source=Polled(name or "network", traffic.look, pid=pid, interval=NETWORK_INTERVAL),
    )


def capabilities(container: Observed | None, spoken: str | None) -> Opened:
    """What a container's processes may do; calls can be tried."""
    from sandbox_kernel.observe.permitted import Permissions
    from sandbox_kernel.widgets.capabilities import CapabilitiesView

    held = _container(container, "capabilities")
    source = Permissions(held)
    return Opened(
        view=CapabilitiesView(held.name, spoken),
        source=source,
        deeds={"try": lambda fields: source.attempt(fields["what"])},
    )


def system_calls(container: Observed | None, spoken: str | None) -> Opened:
    """What a container's filter says; calls can be counted and tried."""
    from sandbox_kernel.observe.called import CallsOf
    from sandbox_kernel.widgets.system_calls import SystemCallsView

    held = _container(container, "system-calls")
    source = CallsOf(held)
    return Opened(
        view=SystemCallsView(held.name, spoken),
        source=source,
        deeds={
            "try": lambda fields: source.attempt(fields["what"]),
            "count": lambda fields: source.count(on=fields["on"]),
        },
    )


def compare(_: Observed | None, spoken: str | None) -> Opened:
    """One workload behind several walls, with the image of the host."""
    from sandbox_kernel.observe.compared import Comparison
    from sandbox_kernel.widgets.compare import CompareView

    source = Comparison()
    return Opened(
        view=CompareView(source.name, spoken),
        source=source,
        deeds={"again": lambda _: source.again()},
    )


def plan(container: Observed | None, spoken: str | None) -> Opened:
    """The plan of a container, or of the next cell."""
    from sandbox_kernel.observe.planned import PlanOf
    from sandbox_kernel.widgets.plan import PlanView

    held = None if container is None else _container(container, "plan")
    return Opened(view=PlanView("" if held is None else held.name, spoken), source=PlanOf(held))


def lifecycle(container: Observed | None, spoken: str | None) -> Opened:
    """The life of a container."""
    from sandbox_kernel.observe.living import LifeOf
    from sandbox_kernel.widgets.lifecycle import LifecycleView

    held = _container(container, "lifecycle")
    return Opened(view=LifecycleView(held.name, spoken), source=LifeOf(held))


def _container(given: Observed | None, name: str) -> Container:
    """One that can be asked for more than what its processes show."""
    held: Any = given
    if given is None or not hasattr(held, "plan"):
        raise InvalidOption("show", name, "a container to show it of")
    return cast("Container", held)
