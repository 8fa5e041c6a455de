"""How a container gets its network: made in its slot, connected by the holder, then entered.

    maker     a network namespace that belongs to the slot, with loopback alone
    holder    a link into it, addresses, and the rules for them (see `network.networks`)
    maker     the container, in that namespace

So nothing of the container runs before it is connected, and its rules are in force by then. One
that shares the network of another container has a maker that entered that before.
"""

from __future__ import annotations

import fcntl
import os

from sandbox_kernel.errors import SandboxError, StepFailed
from sandbox_kernel.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from sandbox_kernel.runtime.held import Held
    from sandbox_kernel.runtime.wiring import Wire

    class Owner(Protocol):
        """What a launcher does when there is no network."""

        def let_go(self, held: Held, numbers: dict[int, int], network: int | None) -> None: ...
        def not_connected(self, held: Held) -> None: ...


_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)


def connect(owner: Owner, wire: Wire, held: Held, network: int) -> None:
    """Have the namespace connected, and then the container made in it. Takes the descriptor."""

    def answered(answer: dict[str, Any]) -> None:
        try:
            if held.ending:
                return
            if answer["event"] == "error":
                _refuse(owner, held, answer)
            elif held.reason is not None:
                owner.not_connected(held)
            else:
                held.order["connected"] = _about(answer)
                numbers, held.waiting = held.waiting, {}
                owner.let_go(held, numbers, network)
        except (SandboxError, OSError) as error:
            _refuse(owner, held, _told(error))
        finally:
            os.close(network)

    if held.reason is not None:
        os.close(network)
        owner.not_connected(held)
        return
    order = {**held.order["network"], "name": held.order.get("name")}
    try:
        wire.plug(held.id, order, network, answered)
    except SandboxError as error:
        os.close(network)
        _refuse(owner, held, _told(error))


def join(held: Held, network: list[int]) -> None:
    """Have a container made in the network of another one: a descriptor, or none at all.

    Raises StepFailed; the container is ended then.
    """
    try:
        for descriptor in network:
            kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
            own = os.path.samestat(os.fstat(descriptor), os.stat("/proc/self/ns/net"))
            if kind != processes.CLONE_NEWNET or own:
                raise StepFailed("enter", "a network", "it is none of a container")
            held.join_network(descriptor)
    except BaseException:
        held.end()
        raise


def of(held: Held) -> int:
    """The network namespace of a container that is there, the caller's to close."""
    return os.open(f"/proc/{held.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _refuse(owner: Owner, held: Held, answer: dict[str, Any]) -> None:
    held.order["refused"] = answer
    held.reason = held.reason or answer["text"]
    owner.not_connected(held)


def _told(error: BaseException) -> dict[str, Any]:
    kind = type(error).__name__ if isinstance(error, SandboxError) else "StepFailed"
    answer: dict[str, Any] = {"event": "error", "kind": kind, "text": str(error)}
    if isinstance(error, StepFailed):
        answer["arguments"] = [error.step, error.subject, error.why, error.errno]
    elif isinstance(error, OSError) and not isinstance(error, SandboxError):
        answer["arguments"] = ["make", "the container", str(error), error.errno or 0]
    return answer


def _about(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("event", "tag")}
