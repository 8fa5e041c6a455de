"""Opening views: the word for one becomes the view with its source, and with what it may do.

A view that is new needs a line in `kinds.KINDS` that names such a function, here or elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.widgets.kinds import KINDS
from sandbox_kernel.widgets.live import Opened

if TYPE_CHECKING:
    from sandbox_kernel.observe import Observed

Opener = Callable[["Observed | None", "str | None"], Opened]


def limits(container: Observed | None, spoken: str | None) -> Opened:
    """Use against limits; the limits can be changed."""
    from sandbox_kernel.observe.use import Use
    from sandbox_kernel.widgets.limits import LimitsView

    held = _one(container, "limits")

    def set_limits(fields: Mapping[str, Any]) -> None:
        held.set_limits(**fields)

    return Opened(
        view=LimitsView(held.name, spoken), source=Use(held), deeds={"set_limits": set_limits}
    )


def layers(container: Observed | None, spoken: str | None) -> Opened:
    """The files of a container as a stack."""
    from sandbox_kernel.observe.layers import Files
    from sandbox_kernel.widgets.layers import LayersView

    held = _one(container, "layers")
    return Opened(view=LayersView(held.name, spoken), source=Files(held))


def namespaces(container: Observed | None, spoken: str | None) -> Opened:
    """Who shares what with whom, and what one sees beside what the host sees."""
    from sandbox_kernel.observe.boxes import Boxes
    from sandbox_kernel.widgets.namespaces import NamespacesView

    held = _one(container, "namespaces")
    source = Boxes(held)

    def choose(fields: Mapping[str, Any]) -> None:
        source.choose(fields["id"])

    return Opened(view=NamespacesView(held.name, spoken), source=source, deeds={"choose": choose})


def containers(_: Observed | None, spoken: str | None) -> Opened:
    """All containers, to look after them."""
    from sandbox_kernel.container import find
    from sandbox_kernel.observe.containers import Containers
    from sandbox_kernel.widgets.containers import ContainersView

    source = Containers()

    def show_logs(fields: Mapping[str, Any]) -> None:
        source.show_logs(fields["ids"])

    def stop(fields: Mapping[str, Any]) -> None:
        found = find(fields["id"])
        try:
            found.stop()
        finally:
            found.close()

    def remove(fields: Mapping[str, Any]) -> None:
        find(fields["id"]).remove()

    deeds = {"show_logs": show_logs, "stop": stop, "remove": remove}
    return Opened(view=ContainersView("", spoken), source=source, deeds=deeds)


def open_view(name: str, container: Observed | None, spoken: str | None = None) -> Opened:
    """The view of this word. Raises InvalidOption, and what its source raises."""
    where = KINDS.get(name)
    if where is None:
        raise InvalidOption("show", name, f"one of {', '.join(KINDS)}")
    module, _, function = where.partition(":")
    opener = cast(Opener, getattr(importlib.import_module(module), function))
    return opener(container, spoken)


def _one(container: Observed | None, name: str) -> Observed:
    if container is None:
        raise InvalidOption("show", name, "a container to show it of")
    return container
