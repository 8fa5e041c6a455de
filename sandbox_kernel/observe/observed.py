"""What can be observed: a `Container`, of this program or found by its name."""

from __future__ import annotations

from typing import Any, Protocol


class Observed(Protocol):
    """The part of `Container` that looking at it needs."""

    name: str
    pid: int

    def limits(self) -> dict[str, Any]:
        """The limits in force, read back from the kernel now."""

    def cgroup_paths(self) -> dict[str, str]:
        """Controller to the directory of its group."""

    def open_writable(self) -> tuple[int, bool]:
        """A descriptor of the writable layer, the caller's, and whether it lies over layers."""
