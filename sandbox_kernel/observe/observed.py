"""What can be observed: a `Container`, of this program or found by its name."""

from __future__ import annotations

from typing import Any, Protocol

from sandbox_kernel.image import Image
from sandbox_kernel.policy import ContainerPlan


class Observed(Protocol):
    """The part of `Container` that looking at it needs, and what a view may ask of it."""

    id: str
    name: str
    pid: int
    image: Image
    plan: ContainerPlan

    def limits(self) -> dict[str, Any]:
        """The limits in force, read back from the kernel now."""

    def cgroup_paths(self) -> dict[str, str]:
        """Controller to the directory of its group."""

    def open_writable(self) -> tuple[int, bool]:
        """A descriptor of the writable layer, the caller's, and whether it lies over layers."""

    def set_limits(self, source: str = ..., /, **changes: Any) -> dict[str, Any]:
        """Changes limits while it lives; what the kernel reads back."""

    def stop(self, timeout: float | None = None) -> None:
        """Tells its processes to end."""
