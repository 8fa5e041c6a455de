"""No cgroups: every limit is refused with the reason."""

from __future__ import annotations

from sandbox_kernel.runtime.cgroups import contract

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Driver(contract.Driver):
    """Says for every limit why this machine can't enforce it."""

    name = "none"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def support(self) -> dict[str, str]:
        return dict.fromkeys((*contract.LIMITS, "freeze", "usage"), self.reason)

    def create(self, group_name: str, resources: Mapping[str, Any]) -> Group:
        self.require(contract.wanted(resources))
        return Group()

    def sweep(self, is_alive: Callable[[str], bool]) -> contract.Swept:
        return contract.Swept()


class Group(contract.Group):
    """Nothing: who made the container ends pid 1 and leaders, and the pid namespace the rest."""

    def entrances(self) -> list[int]:
        return []

    def limits(self) -> dict[str, Any]:
        return dict.fromkeys(contract.LIMITS)

    def update(self, resources: Mapping[str, Any]) -> None:
        Driver("this container was made without cgroups: " + contract.HAND_OVER).require(
            contract.wanted(resources)
        )

    def usage(self) -> dict[str, int | float | None]:
        return dict.fromkeys(contract.USAGE)

    def oom_kills(self) -> int:
        return 0

    def forks_refused(self) -> int:
        return 0

    def oom_fd(self) -> int | None:
        return None

    def kill(self, leaving: int | None = None) -> None:
        return

    def child(self, name: str) -> Group:
        return Group()

    def paths(self) -> dict[str, str]:
        return {}

    def remove(self) -> None:
        return
