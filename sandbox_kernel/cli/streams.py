"""Between our standard streams and a program in a container: copying, signals, and its end.

The container never gets our descriptors, only pipes: through a file of ours it could reach what the
file's mode allows, and through a terminal it could type.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from sandbox_kernel import errors
from sandbox_kernel.cli.verb import FAILED
from sandbox_kernel.container import Exit, Process
from sandbox_kernel.linux import writing

if TYPE_CHECKING:
    from sandbox_kernel.output_policy.terminal import Stream

CHUNK = 1 << 16
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Pipes:
    """The pipes of one program: `inside` for its ProcessSpec, the other ends are ours."""

    def __init__(self, *, interactive: bool, output: str) -> None:
        self._read_in, self._write_in = os.pipe2(os.O_CLOEXEC) if interactive else (-1, -1)
        self._read_out, self._write_out = os.pipe2(os.O_CLOEXEC)
        self._read_err, self._write_err = os.pipe2(os.O_CLOEXEC)
        self._poll = select.poll()
        self._waiting = b""
        self._cleaners = _cleaners(output)

    @property
    def inside(self) -> Mapping[int, int]:
        """Number inside -> descriptor."""
        given = {1: self._write_out, 2: self._write_err}
        return {0: self._read_in, **given} if self._read_in >= 0 else given

    def handed_over(self) -> None:
        """The program has its ends: close ours, so that an end of file can be seen."""
        for number in (self._read_in, self._write_out, self._write_err):
            if number >= 0:
                os.close(number)
        self._read_in = self._write_out = self._write_err = -1

    def close(self) -> None:
        """Close whatever is open."""
        self.handed_over()
        for number in (self._write_in, self._read_out, self._read_err):
            if number >= 0:
                os.close(number)
        self._write_in = self._read_out = self._read_err = -1

    def copy(self, process: Process) -> Exit:
        """Copies both ways until the program has ended and what it wrote is out."""
        self._poll = select.poll()
        for number in (self._read_out, self._read_err, process.fileno()):
            self._poll.register(number, select.POLLIN)
        if self._write_in >= 0:
            os.set_blocking(self._write_in, False)
            self._poll.register(0, select.POLLIN)
        exit_: Exit | None = None
        outlets = {self._read_out: 1, self._read_err: 2}
        while outlets:
            # once it is over, what it left behind may hold the pipes open: take what is there
            ready = [number for number, _ in self._poll.poll(0 if exit_ else None)]
            if exit_ is not None and not outlets.keys() & ready:
                break
            for number in ready:
                if number in outlets:
                    if not self._pass_on(number, outlets[number]):
                        del outlets[number]
                elif number in (0, self._write_in):
                    self._pass_in(number)
                elif exit_ is None and (exit_ := _ended(process)):
                    self._poll.unregister(number)
        return exit_ or process.wait()

    def _pass_on(self, source: int, sink: int) -> bool:
        """Output of the program to ours; False at its end."""
        data = os.read(source, CHUNK)
        if not data:
            self._poll.unregister(source)
        cleaner = self._cleaners.get(sink)
        writing.whole(sink, cleaner.clean(data) if cleaner else data)
        return bool(data)

    def _pass_in(self, number: int) -> None:
        """Our input to the program: read when it took everything, else write what is left."""
        if number == 0:
            self._poll.unregister(0)
            self._waiting = _read_input()
            if self._waiting:
                self._poll.register(self._write_in, select.POLLOUT)
            else:
                self._end_input()
            return
        self._waiting = self._feed(self._waiting)
        if not self._waiting:
            self._poll.unregister(number)
            if self._write_in >= 0:
                self._poll.register(0, select.POLLIN)

    def _feed(self, data: bytes) -> bytes:
        """Writes what fits; a program that closed its input is told nothing more."""
        try:
            return data[os.write(self._write_in, data) :]
        except BlockingIOError:
            return data
        except BrokenPipeError:
            self._end_input()
            return b""

    def _end_input(self) -> None:
        if self._write_in >= 0:
            os.close(self._write_in)
        self._write_in = -1


def _cleaners(output: str) -> Mapping[int, Stream]:
    """For those of our outputs that are a terminal, unless the user trusts what is written."""
    numbers = [number for number in (1, 2) if output != "trusted" and os.isatty(number)]
    if not numbers:
        return {}
    from sandbox_kernel.output_policy.terminal import Stream

    return {number: Stream() for number in numbers}


@contextmanager
def pipes(*, interactive: bool, output: str = "safe") -> Iterator[Pipes]:
    """Pipes that are closed with the block. `output`: the level of what a terminal gets."""
    made = Pipes(interactive=interactive, output=output)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def forwarded(process: Process) -> Iterator[None]:
    """SIGINT and the like go to the program; a third SIGINT ends it."""
    # A handler that had to hear of the start could come when that is heard, and not yet noted.
    process.started()
    seen = 0

    def forward(number: int, _: FrameType | None) -> None:
        nonlocal seen
        seen += number == signal.SIGINT
        if seen > 2:
            process.kill("interrupted three times")
        else:
            process.signal(number)

    with ExitStack() as stack:
        for number in _FORWARDED:
            before = signal.signal(number, forward)
            stack.callback(signal.signal, number, before)
        yield


def status(exit_: Exit) -> int:
    """The exit status of docker: the program's own, or 125, 126, 127 for not having started."""
    failure = exit_.error()
    if failure is None:
        return exit_.shell_status
    sys.stderr.write(f"sandbox-kernel: {failure}\n")
    if isinstance(failure, (errors.OutOfMemory, errors.Killed)):
        return 128 + signal.SIGKILL
    if isinstance(failure, errors.TimedOut):
        return exit_.shell_status
    return exit_.status or FAILED


def _ended(process: Process) -> Exit | None:
    try:
        return process.wait(0)
    except TimeoutError:
        return None  # news, but not of its end


def _read_input() -> bytes:
    try:
        return os.read(0, CHUNK)
    except OSError:
        return b""
