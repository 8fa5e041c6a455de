"""One cell in a container, seen from outside: code in, a stream of events out.

    cell = Cell(CellRequest(code="1 + 1"), limits)
    container = Container.create(plan, process=ProcessSpec(cell.argv(...), cell.descriptors))
    cell.handed_over()
    for event in cell.events(container.process): ...

Three pipes come out of the container: standard output, standard error, and frames. They are read
by one loop that keeps their order, holds a bounded amount, and is never stopped by what is in them.
"""

from __future__ import annotations

import array
import ast
import codecs
import contextlib
import errno
import fcntl
import marshal
import os
import select
import shlex
import termios
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER
from typing import NamedTuple, Protocol

from .. import errors
from ..grammar import shown_size
from ..linux import writing
from ..records import Record
from ..workers import WAKE_SECONDS
from . import events as e
from .process import Exit
from .program import START, program
from .values import Outputs, pack

CHUNK = 1 << 18
PIPE = 1 << 20
FULL = 1 << 15
"""So many bytes at once in a pipe, which has room for twice as many, may become more than that."""
NO_MORE_PROCESSES = "can't start new thread"


class Running(Protocol):
    """What this module uses of a `Process`."""

    def fileno(self) -> int: ...
    def wait(self, timeout: float | None = None) -> Exit: ...
    def signal(self, number: int) -> None: ...
    def kill(self) -> None: ...
    def finish(self, status: int) -> None: ...
    def ended(self) -> bool: ...


class CellRequest(Record):
    """What to run, and which values go in and come out."""

    code: str
    name: str = "<cell>"
    first_line: int = 1
    inputs: Mapping[str, object] = {}
    outputs: tuple[str, ...] = ()
    program: str | None = None  # None: Python, by our runner; else the cell is its standard input
    files: Mapping[str, bytes | str] = {}  # see `files.read_files`
    files_out: tuple[str, ...] = ()
    shell_lines: bool = False  # lines that begin with `!` are commands, as IPython has it
    shows: bool = True  # the value of a last expression
    compiled: bytes = b""  # see `compiled_ahead`
    by: str = "program"  # who asks, for the record


def compiled_ahead(request: CellRequest) -> CellRequest:
    """The request with its code compiled, as byte code files have it (PEP 3147): for code that is
    to run many times. A Python with other byte code inside compiles the text, as always.
    """
    if request.program is not None or request.shows:
        return request
    text = "\n" * (request.first_line - 1) + request.code
    try:
        code = compile(
            text, request.name, "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True, optimize=0,
        )  # fmt: skip
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return request  # which the cell will tell
    return request.replaced(compiled=MAGIC_NUMBER + marshal.dumps(code))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What holds on the outside: bytes of output kept, bytes of values, seconds of patience."""

    output: int = 128 << 20
    values: int = 1 << 30
    grace: float = 5.0
    pids: int | None = None


class Idle(NamedTuple):
    """A cell has nothing to say until the descriptor is readable or the seconds are over."""

    descriptor: int
    seconds: float | None


class Cell:
    """A cell on its way: owns the outer ends of its pipes, and until `handed_over` the inner.

    The container of a `single` cell is ended when the code is over, without waiting until its
    process has taken itself to pieces.
    """

    def __init__(self, request: CellRequest, bounds: Bounds, *, single: bool = False) -> None:
        self.request = request
        self.bounds = bounds
        self.single = single
        self.descriptors: dict[int, int] = {}
        self._own: list[int] = []
        self._inner: list[int] = []
        self._outputs: Outputs | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._own.append(self._wake)
        # Reentrant: a signal handler interrupts in the thread that may just be closing.
        self._closing = threading.RLock()
        self._interrupts = 0
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._out = self._pipe_out(1)
        self._err = self._pipe_out(2)
        self._frames = self._answers = -1
        if self.request.program is not None:
            self._inner.append(_memory(self.request.code.encode("utf-8", "surrogatepass")))
            self.descriptors[0] = self._inner[-1]
            return
        self.descriptors[3] = program()
        request = {
            "code": self.request.code,
            "name": self.request.name,
            "first_line": self.request.first_line,
            "outputs": list(self.request.outputs),
            "shell_lines": self.request.shell_lines,
            "shows": self.request.shows,
            "compiled": self.request.compiled,
        }
        self._inner.append(pack(request, self.request.inputs))
        self.descriptors[4] = self._inner[-1]
        self._frames = self._pipe_out(5)
        inner, self._answers = os.pipe2(os.O_CLOEXEC)
        self._inner.append(inner)
        self._own.append(self._answers)
        os.set_blocking(self._answers, False)
        self.descriptors[6] = inner
        if self.request.outputs:
            self._outputs = Outputs(self.bounds.values)
            self.descriptors[7] = self._outputs.descriptor

    def _pipe_out(self, number: int) -> int:
        outer, inner = os.pipe2(os.O_CLOEXEC)
        self._own.append(outer)
        self._inner.append(inner)
        self.descriptors[number] = inner
        os.set_blocking(outer, False)
        return outer

    def argv(self, interpreter: str) -> tuple[str, ...]:
        """What the container's process executes."""
        if self.request.program is not None:
            return tuple(shlex.split(self.request.program))
        return (interpreter, "-c", START)

    def handed_over(self) -> None:
        """Closes the inner ends: call when the process has them."""
        self._close_inner()

    def _close_inner(self) -> None:
        while self._inner:
            os.close(self._inner.pop())

    def interrupt(self) -> None:
        """SIGINT for the cell, and its end after the grace time; called again, its end at once.

        May be called from any thread and from a signal handler, and when it is over.
        """
        self._interrupts += 1
        with self._closing, contextlib.suppress(OSError):
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Closes what is open; values that were read stay valid."""
        self._close_inner()
        with self._closing:
            self._wake = -1
            while self._own:
                os.close(self._own.pop())
        if self._outputs is not None:
            self._outputs.close()

    def events(self, process: Running) -> Iterator[e.Event]:
        """The events until the process has ended; the last is `Finished`."""
        for step in _Run(self, process).steps(block=True):
            if not isinstance(step, Idle):
                yield step

    def steps(self, process: Running) -> Iterator[e.Event | Idle]:
        """The same events, and `Idle` where `events` would wait: then the caller waits."""
        yield from _Run(self, process).steps(block=False)


class _Run:
    """The loop that reads one cell's pipes."""

    def __init__(self, cell: Cell, process: Running) -> None:
        self.cell = cell
        self.process = process
        self.bounds = cell.bounds
        self.streams = {1: _Text(cell._out, e.Stdout), 2: _Text(cell._err, e.Stderr)}
        self.reader = e.FrameReader()
        self.left = self.bounds.output
        self.told = False
        self.error: e.Error | None = None
        self.cause: e.ErrorFrame | None = None
        self.values: list[e.ValueFrame | e.RefusedFrame] = []
        self.listening = cell._frames >= 0
        self.roomy: set[int] = set()
        self.deadline: float | None = None
        self.done_interrupts = 0

    def steps(self, *, block: bool) -> Iterator[e.Event | Idle]:
        if block:
            exit_ = yield from self._until_exit(select.poll())
        else:
            with select.epoll() as poller:  # one descriptor that another loop can wait for
                exit_ = yield from self._until_exit(poller)
        yield from self._rest()
        yield from self._end(exit_)

    def _until_exit(
        self, poller: select.epoll | select.poll
    ) -> Generator[e.Event | Idle, None, Exit]:
        numbers = {self.streams[1].descriptor, self.streams[2].descriptor}
        if self.cell._frames >= 0:
            numbers.add(self.cell._frames)
        for number in (*numbers, self.cell._wake, self.process.fileno()):
            poller.register(number, select.POLLIN)  # for both it is this bit
        exit_: Exit | None = None
        while exit_ is None:
            if isinstance(poller, select.epoll):
                yield Idle(poller.fileno(), self._patience())
                found = poller.poll(0)
            else:
                found = poller.poll(1000 * self._at_once())
            ready = {number for number, _ in found}
            self._interrupt(self.cell._wake in ready)
            if self.process.fileno() in ready:
                with contextlib.suppress(TimeoutError):  # the news was that it has started
                    exit_ = self.process.wait(0)
            # What lies in the streams now was written after the frames that tell its place, so
            # these are read between the counting and the reading.
            counts = [
                (stream, stream.position, _waiting(stream.descriptor))
                for stream in self.streams.values()
                if stream.descriptor in ready
            ]
            if self.cell._frames in ready or counts or exit_ is not None:
                yield from self._read_frames()
            for stream, position, count in counts:
                left = position + count - stream.position
                if left > 0 or count == 0:  # ready and 0: the end
                    yield from self._read(stream, min(left, CHUNK))
            for number in [n for n in numbers if n in ready and self._at_end(n)]:
                poller.unregister(number)
                numbers.discard(number)
        return exit_

    def _patience(self) -> float | None:
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - time.monotonic())

    def _at_once(self) -> float:
        """How long to wait before an interrupt is looked for, see `WAKE_SECONDS`."""
        patience = self._patience()
        return WAKE_SECONDS if patience is None else min(WAKE_SECONDS, patience)

    def _interrupt(self, woken: bool) -> None:
        """Passes an interrupt on; ends the run if the first did nothing within the grace time."""
        if woken:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.cell._wake)
        wanted = self.cell._interrupts
        late = self.deadline is not None and time.monotonic() >= self.deadline
        if late and self.process.ended():
            self.deadline = None  # it did stop; only the news of it is late on a busy machine
        elif late or (wanted > 1 and self.done_interrupts < 2):
            self.done_interrupts = max(2, wanted)
            self.deadline = None
            self.process.kill()
        elif wanted > self.done_interrupts:
            self.done_interrupts = wanted
            self.deadline = time.monotonic() + self.bounds.grace
            self.process.signal(2)

    def _at_end(self, number: int) -> bool:
        if number == self.cell._frames:
            return not self.listening
        return next(s for s in self.streams.values() if s.descriptor == number).at_end

    def _read(self, stream: _Text, most: int) -> Iterator[e.Event]:
        """One read of a stream: an event with its text, or nothing when there is none."""
        self._make_room(stream.descriptor, most)
        data = stream.read(max(1, most))
        if data:
            kept = data[: self.left]
            self.left -= len(kept)
            text = stream.decode(kept, last=len(kept) < len(data))
            if text:
                yield stream.event(text)
            if len(kept) < len(data):
                yield from self._tell()
        elif data is not None:
            stream.at_end = True

    def _make_room(self, number: int, waiting: int) -> None:
        """Let more lie in a pipe, of a writer that fills it."""
        if waiting >= FULL and number not in self.roomy:
            self.roomy.add(number)
            with contextlib.suppress(OSError):  # an ordinary user has a quota of pipe pages
                fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, PIPE)

    def _drain(self, stream: _Text, most: int) -> Iterator[e.Event]:
        """Reads what lies in the pipe now, at most so much."""
        most = min(most, _waiting(stream.descriptor))
        while most > 0 and not stream.at_end:
            before = stream.position
            yield from self._read(stream, min(most, CHUNK))
            if stream.position == before:
                return
            most -= stream.position - before

    def _tell(self) -> Iterator[e.Event]:
        if not self.told:
            self.told = True
            yield e.Notice(
                f"output cut: more than {shown_size(self.bounds.output)} "
                "(`--output-limit`); the rest is not kept"
            )

    def _read_frames(self) -> Iterator[e.Event]:
        """Reads the frames that lie in their pipe now, or finds the end of it."""
        if not self.listening:
            return
        left = max(1, _waiting(self.cell._frames))
        self._make_room(self.cell._frames, left)
        while left > 0:
            try:
                data = os.read(self.cell._frames, min(left, CHUNK))
            except BlockingIOError:
                return
            if not data:
                self.listening = False
                return
            left -= len(data)
            if not self.reader.dropped:  # read on in any case, so that nobody in there waits
                yield from self._parse(data)

    def _parse(self, data: bytes) -> Iterator[e.Event]:
        try:
            self.reader.room = self.left
            for frame, body in self.reader.feed(data):
                yield from self._take(frame, body)
                self.reader.room = self.left
        except e.BrokenChannel:
            self.reader.dropped = True
            yield e.Notice(
                "the cell wrote to descriptor 5 what is no message: its displays end here"
            )

    def _take(self, frame: e.Frame, body: bytes | None) -> Iterator[e.Event]:
        if isinstance(frame, e.Turn):
            stream = self.streams[frame.stream]
            yield from self._drain(stream, frame.position - stream.position)
            return
        for stream in self.streams.values():
            yield from self._drain(stream, PIPE)
        if isinstance(frame, (*e.BUNDLES, e.ClearFrame)):
            self._answer(frame.sequence)
        if isinstance(frame, e.ClearFrame):
            yield e.Clear(frame.wait)
        elif isinstance(frame, e.BUNDLES):
            if body is None:
                yield from self._tell()
                return
            self.left -= len(body)
            data = e.bundle(frame, body)
            if isinstance(frame, e.ResultFrame):
                yield e.Result(data, frame.metadata)
            else:
                update = isinstance(frame, e.UpdateFrame)
                yield e.Display(data, frame.metadata, frame.transient, update)
        elif isinstance(frame, e.ErrorFrame):
            traceback = (body or b"").decode("utf-8", "replace")
            self.error, self.cause = e.Error(frame.name, frame.value, traceback), frame
        elif isinstance(frame, e.DoneFrame):
            if self.cell.single:
                self.process.finish(frame.status & 0xFF)
        elif len(self.values) < 10_000:
            self.values.append(frame)

    def _answer(self, sequence: int) -> None:
        with contextlib.suppress(OSError):
            os.write(self.cell._answers, (sequence & 0xFFFFFFFF).to_bytes(4, "little"))

    def _rest(self) -> Iterator[e.Event]:
        """What lies in the pipes after the end. A survivor elsewhere can't keep us here."""
        for _ in range(64):  # a pipe holds much less
            if not self.listening or not _waiting(self.cell._frames):
                break
            yield from self._read_frames()
        for stream in self.streams.values():
            yield from self._drain(stream, 2 * PIPE)
            text = stream.decode(b"", last=True)
            if text:
                yield stream.event(text)

    def _end(self, exit_: Exit) -> Iterator[e.Event]:
        failure = self._failure(exit_)
        if failure is not None:
            name, value = type(failure).__name__, str(failure)
            before = self.error.traceback.rstrip() + "\n" if self.error else ""
            yield e.Error(name, value, f"{before}{name}: {value}\n", failure)
        elif self.error is not None:
            yield self.error
        elif exit_.status:
            value = str(exit_.status)
            yield e.Error("SystemExit", value, f"SystemExit: {value}\n")
        yield from self._give_values()
        status = exit_.status if exit_.status is not None else -(exit_.signal or 9)
        yield e.Finished(status, exit_.usage)

    def _failure(self, exit_: Exit) -> errors.SandboxError | None:
        """The error that has a name of its own: a limit that was reached, a death."""
        if self.done_interrupts > 1:
            return errors.Killed("interrupted, and the code did not stop: it was ended")
        failure = exit_.error()
        if failure is not None:
            return failure
        if self.cause is not None:
            return self._limit_behind(self.cause, exit_)
        if exit_.signal == 2 and self.done_interrupts:
            self.error = e.Error("KeyboardInterrupt", "", "KeyboardInterrupt\n")
        elif exit_.signal:
            return errors.Killed(f"the process was ended by {_signal_name(exit_.signal)}")
        elif exit_.status and self.cell.request.program is not None:
            return errors.ProgramFailed(self.cell.request.program, exit_.status)
        return None

    def _limit_behind(self, cause: e.ErrorFrame, exit_: Exit) -> errors.CellFailed | None:
        """The limit because of which the cell got this exception, if there is one."""
        usage = exit_.usage
        if cause.number in (errno.ENOSPC, errno.EDQUOT):
            used = cause.space if cause.space is not None else usage.get("storage_bytes")
            return errors.NoSpace(usage.get("storage_limit"), used)
        if cause.number == errno.EAGAIN or NO_MORE_PROCESSES in cause.value:
            limit, peak = self.bounds.pids, usage.get("pids_peak")
            if limit and (peak is None or peak >= limit - 2):  # init and its like count too
                return errors.TooManyProcesses(limit, peak)
        return None

    def _give_values(self) -> Iterator[e.Event]:
        outputs = self.cell._outputs
        if outputs is None or not self.values:
            return
        outputs.seal()
        asked = self.cell.request.outputs
        for frame in [frame for frame in self.values if frame.name in asked]:
            if isinstance(frame, e.RefusedFrame):
                problem = errors.ValueNotTransferable(frame.name, frame.type or "?", frame.why)
            else:
                try:
                    place = (frame.offset, frame.length)
                    value = outputs.read(frame.name, frame.format, *place, frame.details)
                except errors.ValueNotTransferable as found:
                    problem = _without_frames(found)
                else:
                    yield e.Value(frame.name, value)
                    continue
            name = type(problem).__name__
            yield e.Error(name, str(problem), f"{name}: {problem}\n", problem)


def _without_frames(
    problem: errors.ValueNotTransferable,
) -> errors.ValueNotTransferable:
    """It stays with a result, and a frame would keep the file of values open as long."""
    one: BaseException | None = problem
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return problem


class _Text:
    """One stream: bytes to text across the edges of reads."""

    def __init__(self, descriptor: int, event: type[e.Stdout] | type[e.Stderr]) -> None:
        self.descriptor = descriptor
        self.event = event
        self.position = 0
        self.at_end = False
        self._decoder: codecs.IncrementalDecoder | None = None

    def read(self, most: int) -> bytes | None:
        """Bytes, empty at the end, None when there are none now."""
        try:
            data = os.read(self.descriptor, most)
        except BlockingIOError:
            return None
        self.position += len(data)
        return data

    def decode(self, data: bytes, *, last: bool) -> str:
        if self._decoder is None:
            if not data:
                return ""
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return self._decoder.decode(data, last)


def _memory(data: bytes) -> int:
    """A memory file with this content, read from its start."""
    descriptor = os.memfd_create("cell", os.MFD_CLOEXEC)
    writing.whole(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _waiting(descriptor: int) -> int:
    """How many bytes lie in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
