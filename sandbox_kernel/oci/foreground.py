"""Waiting for a program in the foreground, whose signals are those that we get."""

from __future__ import annotations

import _signal as signal  # `signal` is the same with enumerations around it, slow to import
import os

from sandbox_kernel.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self


class Foreground:
    """What a foreground program is shown on: here on the streams that it got of us."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        return None

    def wait(self, pid: int, passed_on: Sequence[int]) -> int:
        """Until a child of ours ends; returns its status as a shell has it.

        Signals that we get are for the program.
        """
        pidfd = processes.pidfd_open(pid)

        def pass_on(number: int, frame: object) -> None:
            try:
                processes.send_signal(pidfd, number)
            except ProcessLookupError:
                pass  # it ended just now

        for number in passed_on:
            signal.signal(number, pass_on)
        self._show(pidfd)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code

    def _show(self, pidfd: int) -> None:
        """Until the program has ended."""
        processes.wait_ended(pidfd)
