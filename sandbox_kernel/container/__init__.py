"""A container's life: create, enter, limits, files and values in and out, stop, remove."""

from sandbox_kernel.container.container import Container
from sandbox_kernel.container.process import Exit, Process, ProcessSpec

__all__ = ["Container", "Exit", "Process", "ProcessSpec"]
