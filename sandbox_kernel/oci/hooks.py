"""Hooks: programs of the caller that are run at six points of a container's life."""

from __future__ import annotations

import _signal as signal  # `signal` is the same with enumerations around it, slow to import
import os

from sandbox_kernel import plain_json
from sandbox_kernel.linux import processes, waiting, writing
from sandbox_kernel.oci.faults import StepFailed, doing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MOST_OUTPUT = 4096


def given(config: Mapping[str, Any], *kinds: str) -> bool:
    """Whether there are hooks of one of these kinds."""
    found = config.get("hooks") or {}
    return any(found.get(kind) for kind in kinds)


def run(config: Mapping[str, Any], kind: str, state: Mapping[str, Any]) -> None:
    """Run the hooks of one kind in their order, each with the state as its standard input.

    Raises StepFailed at the first that fails.
    """
    for hook in (config.get("hooks") or {}).get(kind) or ():
        _run(kind, hook, plain_json.written(state).encode())


def _run(kind: str, hook: Mapping[str, Any], state: bytes) -> None:
    path = hook["path"]
    with doing(f"run hook {kind}", path):
        memory = os.memfd_create("state", os.MFD_CLOEXEC)
        writing.whole(memory, state)
        os.lseek(memory, 0, os.SEEK_SET)
        output, end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(end, False)
        environment = dict(entry.partition("=")[::2] for entry in hook.get("env") or ())
        actions = [
            (os.POSIX_SPAWN_DUP2, memory, 0),
            (os.POSIX_SPAWN_DUP2, end, 1),
            (os.POSIX_SPAWN_DUP2, end, 2),
        ]
        try:
            pid = os.posix_spawn(
                path, hook.get("args") or [path], environment, file_actions=actions,
                setsigmask=(),
            )  # fmt: skip
        finally:
            os.close(memory)
            os.close(end)
    pidfd = processes.pidfd_open(pid)
    seconds = hook.get("timeout")
    in_time = waiting.readable(pidfd, seconds)
    if not in_time:
        processes.send_signal(pidfd, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    os.set_blocking(output, False)
    try:
        said = os.read(output, MOST_OUTPUT).decode(errors="replace").strip()
    except BlockingIOError:
        said = ""
    finally:
        os.close(output)
    if not in_time:
        raise StepFailed(f"run hook {kind}", path, f"it was not over after {seconds} s")
    if status:
        why = f"it ended with status {status}" + (f": {said}" if said else "")
        raise StepFailed(f"run hook {kind}", path, why)
