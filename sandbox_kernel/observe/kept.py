"""What is kept ready for the next cell or kernel, and within which bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox_kernel.runtime import client


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one launcher keeps: that of this program, or the warm holder.

    `templates` as `sandbox-kernel pool status` lists them. The others are the bounds: how many
    containers may be ready of a kind, and how many templates there may be; after how many seconds
    without use they are dropped; and the part of the machine's memory, 0 to 1, below which all that
    only waits is dropped.
    """

    templates: tuple[dict[str, Any], ...]
    most_ready: int
    most_templates: int
    ready_seconds: float
    template_seconds: float
    least_available: float

    @property
    def ready(self) -> int:
        """How many containers wait now."""
        return sum(template["ready"] for template in self.templates)


def by_this_program() -> Kept:
    """What the launcher of this program keeps, which is started if there is none.

    Raises HostLacks, LauncherGone.
    """
    return _kept(client.shared())


def by_the_holder() -> Kept | None:
    """What the warm holder of this user keeps; None where there is none."""
    holder = client.find_holder()
    return None if holder is None else _kept(holder)


def _kept(launcher: client.Launcher | client.Holder) -> Kept:
    said = client.pool_of(launcher)
    bounds = said["bounds"]
    return Kept(
        templates=tuple(said["templates"]),
        most_ready=bounds["ready"],
        most_templates=bounds["templates"],
        ready_seconds=bounds["ready_seconds"],
        template_seconds=bounds["template_seconds"],
        least_available=bounds["least_available"],
    )
