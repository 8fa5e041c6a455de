"""Which system calls a run makes, from its first one on: heard of while it runs.

The run carries a filter that asks for each call (see `linux.seccomp_notify`); a thread of ours
answers that it may go on, which the run's other filters have decided before.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import Counter

from sandbox_kernel import errors
from sandbox_kernel.linux import seccomp, seccomp_notify, waiting

RECORDER = 100
"""The number of the descriptor in the run, until its program is executed."""
START_SECONDS = 60.0
END_SECONDS = 5.0


class Recorder:
    """Hears of the calls of one run, which is given `descriptors` and `records`."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._over, self._end = os.pipe2(os.O_CLOEXEC)
        self._counts: Counter[int] = Counter()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    @property
    def descriptors(self) -> dict[int, int]:
        """What the run has to have: number inside to ours."""
        return {RECORDER: self._theirs.fileno()}

    def calls(self) -> dict[str, int]:
        """Name to how often, of all that was heard of. Raises StepFailed when that is not all."""
        if self._failure is not None:
            raise errors.StepFailed("learn", "system calls", str(self._failure)) from self._failure
        return {seccomp.name_of(number): count for number, count in self._counts.items()}

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """After the run has ended: nobody's calls wait any more."""
        self._theirs.close()
        os.close(self._end)
        self._thread.join(END_SECONDS)
        os.close(self._over)
        self._ours.close()

    def _work(self) -> None:
        try:
            begun = self._ours.fileno()
            ready, _ = waiting.ready([begun, self._over], [], START_SECONDS)
            if begun not in ready:
                raise TimeoutError("the program was not started")
            _, given, _, _ = socket.recv_fds(self._ours, 16, 1)
            if given:
                self._hear(given[0])
        except (OSError, TimeoutError) as error:
            self._failure = error

    def _hear(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._over, select.POLLIN)
        try:
            while True:
                ready = dict(poll.poll())
                if ready.get(listener, 0) & select.POLLIN:
                    if (number := seccomp_notify.hear(listener)) is not None:
                        self._counts[number] += 1
                elif ready:  # all that it was told of have ended, or nobody asks any more
                    return
        finally:
            os.close(listener)
