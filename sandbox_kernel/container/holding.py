"""The warm holder as programs use it: let it have a kernel ready, tell what it has, end it."""

from __future__ import annotations

from typing import Any

from sandbox_kernel import errors, image
from sandbox_kernel.container.container import Container
from sandbox_kernel.container.process import ProcessSpec
from sandbox_kernel.container.program import START_KERNEL
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.runtime import client


def keep_kernel_ready(plan: ContainerPlan, holder: client.Holder | None = None) -> None:
    """Have a kernel ready for the next start with this plan; the holder is started if need be,
    unless it is known.

    Raises what `Container.create` raises, and HostLacks when there can be no holder.
    """
    process, resolved = _kernel(plan)
    holder = holder or client.start_holder()
    if holder is None:
        raise errors.HostLacks("start the warm holder: it ended at once: see `doctor`")
    Container.expect(plan, process, holder, resolved)


def prepare_order(plan: ContainerPlan) -> None:
    """Work out what the holder will be told of a kernel with this plan, if there is a holder.

    Who does it again, or a fork of who did, has it at once. Raises what `Container.create` raises.
    """
    holder = client.find_holder()
    if holder is not None:
        process, resolved = _kernel(plan)
        Container.prepare(plan, process, holder, resolved)


def _kernel(plan: ContainerPlan) -> tuple[ProcessSpec, image.Image]:
    resolved = image.for_kernel(image.resolve(plan.image))
    interpreter = resolved.interpreter
    if interpreter is None:
        raise errors.ImageError(
            f"keep a kernel ready of `{plan.image}`: it has no Python that is known"
        )
    return ProcessSpec(argv=(interpreter, "-c", START_KERNEL)), resolved


def status() -> list[dict[str, Any]] | None:
    """What the holder has: a row for each template; None where there is no holder."""
    holder = client.find_holder()
    return None if holder is None else holder.pool()


def stop() -> bool:
    """End the holder; whether there was one."""
    holder = client.find_holder()
    if holder is None:
        return False
    try:
        holder.stop()
    except errors.LauncherGone:
        pass  # it was just ending by itself
    return True
