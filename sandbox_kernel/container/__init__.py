"""A container's life: create, enter, limits, files and values in and out, find, stop, remove."""

from sandbox_kernel.container.container import Container
from sandbox_kernel.container.finding import Listed, find, inspect, list_all, match, refuse_taken
from sandbox_kernel.container.process import Exit, Process, ProcessSpec

__all__ = [
    "Container", "Exit", "Listed", "Process", "ProcessSpec", "find", "inspect", "list_all", "match",
    "refuse_taken",
]  # fmt: skip
