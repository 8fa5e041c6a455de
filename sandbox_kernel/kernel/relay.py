"""The relay: one loop over the outer sockets, the inner links and the container's process.

It never waits for the inside, so control, interrupts, shutdown and `kernel_info` are answered
although the inside is starting, hangs or is dead. A client's way in: `_receive` reads and checks,
`_dispatch` answers or forwards. The inside's way out is in `outgoing.py`.

States: starting (requests wait) -> ready -> over; or starting -> failed, where each cell gets the
reason as its answer, since a process that ends at once would only be started again.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import zmq

from sandbox_kernel import audit, errors
from sandbox_kernel.container import Exit
from sandbox_kernel.output_policy import OutputPolicy
from sandbox_kernel.runtime import cgroups

from . import commands, contents, info, signals, usage
from .connection import Connection
from .interrupts import Interrupts
from .outer import AGAIN_SECONDS, Outer, receive
from .outgoing import Outgoing
from .pinning import INFO, Waiting
from .requests import Ledger, Request
from .start import BY, Inside
from .updating import Update
from .voice import AT_ONCE, Voice, failure
from .widgets import Widgets
from .wire import EMPTY, Message, Reader, Signer, frames
from .zmtp import Buffer, Link

MOST_EARLY = 4096
MOST_TO_INSIDE = 64 << 20
MOST_INPUT = 16 << 20
PROBE_SECONDS = 0.02
LEAVE_SECONDS = 1.0
TOLD_SECONDS = 1.0
"""Between the message that says why it ended and the end of the process. A server that sees the
end first tells its clients to forget the cell, and they drop the reason."""
TAIL = 8 << 10
ERROR_STATUS = 1


class Relay:
    """One kernel's outside. `run` returns the status to exit with."""

    def __init__(
        self, connection: Connection, inside: Inside, face: socket.socket | None = None
    ) -> None:
        """`face`: leads to the stub that Jupyter knows as this kernel, see `stub.py`."""
        self._connection = connection
        self._face = face
        self._inside = inside
        outer_signer = Signer(connection.key.encode(), connection.signature_scheme)
        self._inner_signer = Signer(inside.key.encode())
        self._outer = Outer(connection)
        self._voice = Voice(self._outer, outer_signer)
        self._widgets = Widgets(self._voice)
        self._ledger = Ledger()
        self._reader = Reader(outer_signer, replays=True)
        self._outgoing: Outgoing | None = None
        self._interrupts: Interrupts | None = None
        self._info = info.first()
        self._pins = Waiting(inside.settled)
        self._early: deque[tuple[Request, Message]] = deque()
        self._held: deque[tuple[Request, Message]] = deque()  # cells that wait for a command's turn
        self._failure: dict[str, Any] | None = None
        self._update: Update | None = None
        self._ready = False
        self._probe_seen = False
        self._probe_info: contents.KernelInfo | None = None
        self._probe_again: float | None = None
        self.probe_id = ""
        self._before: Any = None  # the container's counters after the last cell
        self._told_lacking = False
        self._errors_tail = b""
        self._leave_at: float | None = None
        self._status: int | None = None
        self._poller = zmq.Poller()
        self._polled: dict[Any, int] = {}
        self._actions: dict[Any, Callable[[], None]] = {}
        self._arranged: tuple[bool, ...] = ()

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Relays until the kernel is over."""
        self._watch(self._outer.control, lambda: self._receive(self._outer.control, "control"))
        self._watch(self._outer.stdin, self._receive_input)
        self._watch(self._outer.iopub, self._voice.welcome)
        self._watch(self._inside.wake, self._settled)
        self._watch(
            self._widgets.wake, lambda: self._widgets.publish(congested=self._outer.congested)
        )
        self._signals = signals.caught()
        self._watch(self._signals[0], self._signalled)
        self._watch_parent()
        if self._face is not None:
            self._face.setblocking(False)
            self._watch(self._face, self._hear_face)
        self._voice.publish("status", {"execution_state": "starting"})
        try:
            while self._status is None:
                self._arrange()
                for ready, _ in self._poller.poll(self._patience()):
                    if self._status is None:
                        self._actions[ready]()
                self._work()
        finally:
            self._close()
        return self._status

    def _watch(self, what: Any, action: Callable[[], None], events: int = zmq.POLLIN) -> None:
        key = what if isinstance(what, (int, zmq.Socket)) else what.fileno()
        self._actions[key] = action
        if self._polled.get(key) != events:
            self._polled[key] = events
            self._poller.register(key, events)

    def _unwatch(self, what: Any) -> None:
        key = what if isinstance(what, (int, zmq.Socket)) else what.fileno()
        if self._polled.pop(key, None) is not None:
            self._poller.unregister(key)

    def _arrange(self) -> None:
        """Back-pressure: what is not polled is not taken, and its writer waits."""
        full = len(self._early) + len(self._held) + len(self._ledger) >= MOST_EARLY
        channels = self._inside.channels if self._outgoing else None
        links = tuple(channels.links.values()) if channels else ()
        full = full or any(link.waiting > MOST_TO_INSIDE for link in links)
        full = full or self._outer.waits_for_a_listener()
        now = (full, self._outer.congested, *[link.writing for link in links])
        if now == self._arranged:
            return
        self._arranged = now
        if full:
            self._unwatch(self._outer.shell)
        else:
            self._watch(self._outer.shell, self._receive_requests)
        if channels is None:
            return
        for name, link in channels.links.items():
            if link.ended:
                continue
            paused = name == "iopub" and self._outer.congested
            events = (0 if paused else zmq.POLLIN) | (zmq.POLLOUT if link.writing else 0)
            if events:
                self._watch(link, self._link_action(name, link), events)
            else:
                self._unwatch(link)

    def _link_action(self, name: str, link: Link) -> Callable[[], None]:
        def read() -> None:
            self._read_link(name, link)

        return read

    def _patience(self) -> int | None:
        """Milliseconds until something is due, None for as long as it takes."""
        dues = [self._leave_at, self._probe_again, self._pins.due, self._outer.listener_due]
        if self._ready and self._interrupts:
            dues.append(self._interrupts.due())
        dues += [request.synthesise_at for request in self._ledger.open()]
        if self._outer.congested:
            dues.append(time.monotonic() + AGAIN_SECONDS)
        known = [due for due in dues if due is not None]
        if not known:
            return None
        return max(0, math.ceil((min(known) - time.monotonic()) * 1000))

    def _work(self) -> None:
        """What is due, whoever woke the loop."""
        self._outer.pump()
        now = time.monotonic()
        if self._leave_at is not None and now >= self._leave_at:
            self._status = 0
            return
        # The time of a cell is its own: that of an ipykernel that is starting does not count.
        if self._ready and self._interrupts and (error := self._interrupts.check()):
            self._end(error)
            return
        if self._probe_again is not None and now >= self._probe_again:
            self._probe()
        for asked in self._pins.released(self._image()):
            self._dispatch(*asked)
        for request in self._ledger.open():
            if request.synthesise_at is not None and now >= request.synthesise_at:
                self._complete(request, now)
        if self._held and self._update is None:
            self._run_held()

    def _complete(self, request: Request, now: float) -> None:
        """The inside owes a reply or an idle for too long: the client gets its end from us."""
        if self._outer.congested:
            request.synthesise_at = now + 1.0  # it may lie behind what nobody takes
            return
        if not request.replied and not request.is_comm:
            text = "the inside ended the request without an answer"
            self._voice.error(request, failure(errors.Killed(text)))
        self._voice.status(request, "idle")
        self._ledger.close(request)

    # -- signals, parent, the container's news ----------------------------------------------------

    def _signalled(self) -> None:
        with suppress(BlockingIOError):
            self._obey(self._signals[0].recv(256))

    def _hear_face(self) -> None:
        """Signals that the stub got; its end, as it is when it was killed, is ours at once."""
        assert self._face is not None
        try:
            numbers = self._face.recv(256)
        except BlockingIOError:
            return
        except ConnectionError:
            numbers = b""
        if not numbers:
            os._exit(ERROR_STATUS)  # the container ends with its channel, as if we were killed too
        self._obey(numbers)

    def _obey(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGINT:
                self._interrupt()
            elif number == signal.SIGTERM:
                self._leave()

    def _watch_parent(self) -> None:
        try:
            parent = signals.parent()
        except ProcessLookupError:
            self._leave()
            return
        if parent is not None:
            self._watch(parent, self._leave)

    def _settled(self) -> None:
        """The container was made, or not; or, before that, the plan is known."""
        os.eventfd_read(self._inside.wake)
        if not self._inside.settled.is_set():
            return
        self._unwatch(self._inside.wake)
        inside = self._inside
        if inside.failure is not None or not (inside.plan and inside.process and inside.channels):
            self._fail(inside.failure or errors.ContainerError("the container did not start"))
            return
        self._outgoing = Outgoing(
            self._voice, self._ledger, self._inner_signer,
            limit=inside.plan.output_limit, hooks=self, widgets=self._widgets,
            policy=OutputPolicy(inside.plan.output),
        )  # fmt: skip
        self._interrupts = Interrupts(
            self._ledger, inside.process,
            grace=inside.plan.interrupt_grace, timeout=inside.plan.timeout,
        )  # fmt: skip
        self._watch(inside.process, self._process_news)
        self._watch(inside.errors_read, self._read_errors)
        for link in inside.channels.links.values():
            link.begin_digest = self._outgoing.begin_digest
            link.flush()
        self._probe()

    def _read_errors(self) -> None:
        """What libraries and a dying interpreter write to the true stderr: kept for a report."""
        try:
            data = os.read(self._inside.errors_read, 64 << 10)
        except BlockingIOError:
            return
        self._errors_tail = (self._errors_tail + data)[-TAIL:]
        if not data:
            self._unwatch(self._inside.errors_read)

    def _process_news(self) -> None:
        assert self._inside.process
        try:
            exit_ = self._inside.process.wait(0)
        except TimeoutError:
            return  # it has started
        self._unwatch(self._inside.process)
        self._drain()
        self._read_errors()
        if self._status is not None:
            return
        if self._leave_at is not None:
            self._status = 0
            return
        error = exit_.error()
        if error is None and not self._ready:
            error = self._why_not_started(exit_)
        if not self._ready and error is not None:
            self._fail(error)
        elif error is not None:
            self._end(error, self._errors_tail)
        elif exit_.status == 0:
            self._abort_all()
            self._status = 0  # `exit()` in a cell: Jupyter decides what follows
        else:
            how = f"with status {exit_.status}"
            if exit_.signal:
                how = f"by signal {exit_.signal} ({signal.strsignal(exit_.signal)})"
            text = f"the kernel's process in the container ended {how}"
            self._end(errors.Killed(text), self._errors_tail)

    def _why_not_started(self, exit_: Exit) -> errors.SandboxError:
        """The limit that ipykernel met before it answered, or else its last words."""
        plan, peak = self._inside.plan, exit_.usage.get("pids_peak")
        if plan and plan.pids_limit and peak and peak >= plan.pids_limit:
            return errors.TooManyProcesses(plan.pids_limit, peak)
        what = f"start ipykernel in `{plan and plan.image}`"
        lines = self._errors_tail.decode("utf-8", "replace").strip().splitlines()
        return errors.ContainerError(f"{what}: {lines[-1] if lines else 'it ended at once'}")

    def _drain(self) -> None:
        """What the inside said before it ended."""
        channels = self._inside.channels
        for name in ("iopub", "shell", "control") if channels and self._outgoing else ():
            link = channels.links[name]  # type: ignore[union-attr]
            deadline = time.monotonic() + 1.0
            while not link.ended and time.monotonic() < deadline and self._read_link(name, link):
                self._outer.pump()

    def _fail(self, error: BaseException) -> None:
        """There will be no inside: everybody who asks gets the reason.

        If it was ended, and not refused, the kernel ends as it would later: Jupyter starts another.
        """
        tail = self._errors_tail.decode("utf-8", "replace").strip()
        self._failure = failure(error, tail)
        while self._early:
            self._refuse(self._early.popleft()[0])
        if isinstance(error, (errors.Killed, errors.LauncherGone)):
            self._status = ERROR_STATUS

    def _refuse(self, request: Request) -> None:
        self._voice.status(request, "busy")
        self._voice.error(request, self._failure or {})
        self._voice.status(request, "idle")
        self._ledger.close(request)

    def _end(self, error: errors.SandboxError, tail: bytes = b"") -> None:
        """The container is over: the running cell gets the reason, the others are aborted."""
        if self._inside.container:
            with suppress(errors.SandboxError, OSError):
                self._inside.container.kill(type(error).__name__)
        self._drain()
        running = self._ledger.on_main()
        if running is None or not running.is_cell:
            running = self._ledger.head_cell() or running
        told = failure(error, tail.decode("utf-8", "replace").strip())
        if running is not None:
            running.failed = running.failed or type(error).__name__
            self._voice.status(running, "busy")
            self._voice.error(running, told)
            self._voice.status(running, "idle")
            self._ledger.close(running)
        else:
            text = "\n" + told["evalue"] + "\n"
            last = self._ledger.last_cell()
            self._voice.publish("stream", {"name": "stderr", "text": text}, last)
        self._abort_all()
        self._status = ERROR_STATUS

    def _abort_all(self) -> None:
        self._early.clear()
        self._held.clear()
        for request in self._ledger.open():
            self._abort(request)

    def _abort(self, request: Request) -> None:
        """A request that will not run, answered as ipykernel does after an error."""
        request.failed = request.failed or "aborted"
        if not request.is_comm:
            self._voice.status(request, "busy")
            self._voice.reply(request, {"status": "aborted"})
            self._voice.status(request, "idle")
        self._ledger.close(request)

    # -- from clients -----------------------------------------------------------------------------

    def _receive_requests(self) -> None:
        if self._outer.may_be_asked():
            self._receive(self._outer.shell, "shell")

    def _receive(self, socket: zmq.Socket[bytes], channel: str) -> None:
        for _ in range(AT_ONCE):
            received = receive(socket)
            if received is None or self._status is not None:
                return
            try:
                message = self._reader.read(received)
            except errors.BadMessage:
                self._refused_frames(channel)
                continue
            self._dispatch(Request(message, channel), message)

    def _refused_frames(self, channel: str) -> None:
        if self._outgoing:
            self._outgoing.drop(f"unreadable on {channel}")

    def _receive_input(self) -> None:
        """An answer to a question that was asked, from the client that was asked."""
        for _ in range(AT_ONCE):
            received = receive(self._outer.stdin)
            if received is None:
                return
            try:
                message = self._reader.read(received)
            except errors.BadMessage:
                self._refused_frames("stdin")
                continue
            asked = next(
                (
                    request
                    for request in self._ledger.open()
                    if request.asking and request.identities[:1] == message.identities[:1]
                ),
                None,
            )
            if (
                message.header.msg_type != "input_reply"
                or asked is None
                or message.size > MOST_INPUT
            ):
                self._refused_frames("stdin")
                continue
            asked.asking = False
            self._to_inside("stdin", message)

    def _dispatch(self, request: Request, message: Message) -> None:
        local = _LOCAL.get(request.kind)
        if request.kind == INFO and self._pins.takes(self._image(), request, message):
            return
        if local is not None:
            self._voice.status(request, "busy")
            local(self, request, message)
            self._voice.status(request, "idle")
            return
        if request.is_comm and self._widgets.takes(request, message):
            return
        if request.is_cell and not self._read_cell(request, message):
            return
        self._ledger.add(request)
        if self._failure is not None:
            command = commands.find(request.code) if request.is_cell and request.code else None
            if command and command.alone and commands.is_update(command) and not self._update:
                self._start_update(request, message, command)  # it may be what helps
            else:
                self._refuse(request)
        elif not self._ready:
            self._early.append((request, message))
        else:
            self._admit(request, message)

    def _read_cell(self, request: Request, message: Message) -> bool:
        try:
            content = contents.execute_request.decode(message.content)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._voice.status(request, "busy")
            self._voice.reply(
                request,
                {"status": "error", **failure(errors.BadMessage("read", request.kind, str(error)))},
            )
            self._voice.status(request, "idle")
            return False
        request.code = content.code
        request.silent = content.silent
        request.allow_stdin = content.allow_stdin
        request.stop_on_error = content.stop_on_error
        return True

    def _admit(self, request: Request, message: Message) -> None:
        """Into the inside, in order; a cell with a command of ours waits until it is its turn."""
        if request.is_cell and request.channel == "shell":
            command = request.code is not None and commands.find(request.code)
            if command or ((self._held or self._update) and request.on_main):
                self._held.append((request, message))
                return
        self._forward(request, message)

    def _forward(self, request: Request, message: Message) -> None:
        if request.is_comm and self._outgoing:
            self._outgoing.client_comm(request.kind, message.content)
        elif request.kind == "comm_info_request":
            with suppress(msgspec.MsgspecError, UnicodeError):
                request.comm_target = contents.comm_opened.decode(message.content).target_name
        elif request.kind == "debug_request" and self._outgoing:
            self._outgoing.debugging = True
        elif request.is_cell and not self._in_the_record(request):
            return
        self._to_inside(request.channel, message)

    def _in_the_record(self, request: Request) -> bool:
        """Writes that a cell is about to run; one that can't be written does not."""
        inside = self._inside
        assert inside.plan and inside.container
        try:
            request.entry = audit.begin(
                inside.plan, by=BY, digest=inside.container.image.digest, code=request.code,
                container=inside.container.id, limits=inside.container.limits_at_start,
            )  # fmt: skip
        except errors.StepFailed as error:
            self._voice.status(request, "busy")
            self._voice.error(request, failure(error))
            self._voice.status(request, "idle")
            self._ledger.close(request)
            self._abort_held(request)
            return False
        return True

    def _to_inside(self, channel: str, message: Message) -> None:
        assert self._inside.channels
        made = frames(
            self._inner_signer, message.raw_header, message.raw_parent, message.metadata,
            message.content, *message.buffers,
        )  # fmt: skip
        self._inside.channels.links[channel].send(made)

    def _run_held(self) -> None:
        """Commands whose turn it is, and the cells behind them."""
        waiting = {id(request) for request, _ in self._held}
        while self._held:
            request, message = self._held[0]
            command = commands.find(request.code or "")
            if (
                command
                and request.on_main
                and any(
                    other.on_main and other.is_cell and id(other) not in waiting
                    for other in self._ledger.open()
                )
            ):
                return
            self._held.popleft()
            waiting.discard(id(request))
            if command is None:
                self._forward(request, message)
            elif commands.is_update(command):
                self._start_update(request, message, command)
                return
            elif self._carry_out(request, command):
                self._forward_rest(request, message, command)
            else:
                self._abort_held(request)

    def _forward_rest(self, request: Request, message: Message, command: commands.Command) -> None:
        body = {**contents.fields.decode(message.content), "code": command.rest}
        self._forward(request, message._replace(content=contents.encode(body)))

    def _start_update(self, request: Request, message: Message, command: commands.Command) -> None:
        """`%sandbox update`: cells behind it wait, the loop goes on."""
        self._voice.status(request, "busy")
        if not request.silent and self._failure is None:
            count = self._outgoing.execution_count + 1 if self._outgoing else 1
            self.show_input(request, count)
        inside = self._inside
        self._update = Update(lambda: commands.update(inside.pinning, inside.named))
        self._watch(self._update.wake, lambda: self._updated(request, message, command))

    def _updated(self, request: Request, message: Message, command: commands.Command) -> None:
        assert self._update
        update, self._update = self._update, None
        self._unwatch(update.wake)
        try:
            content = {"data": update.result(), "metadata": {}, "transient": {}}
            self._voice.publish("display_data", content, request)
        except (errors.SandboxError, OSError, TimeoutError) as error:
            self._voice.error(request, failure(error))
            self._voice.status(request, "idle")
            self._ledger.close(request)
            self._abort_held(request)
            return
        if self._failure is None:
            self._forward_rest(request, message, command)
            return
        done = {"status": "ok", "execution_count": 0, "payload": [], "user_expressions": {}}
        self._voice.reply(request, done)
        self._voice.status(request, "idle")
        self._ledger.close(request)

    def _carry_out(self, request: Request, command: commands.Command) -> bool:
        """Runs a command of ours; whether the rest of the cell is to run inside."""
        assert self._inside.container
        self._voice.status(request, "busy")
        if not request.silent:
            count = self._outgoing.execution_count + 1 if self._outgoing else 1
            self.show_input(request, count)
        try:
            if command.name in (commands.TOP, commands.SHOW):
                for view in commands.views(command, self._inside.container):
                    self._widgets.show(view, self._inside.container, request)
            else:
                shown = commands.run(command, self._inside.container)
                content = {"data": shown, "metadata": {}, "transient": {}}
                self._voice.publish("display_data", content, request)
        except (errors.SandboxError, OSError, TimeoutError) as error:
            told = failure(error)
            self._voice.error(request, told)
            self._voice.status(request, "idle")
            self._ledger.close(request)
            return False
        return True

    def _abort_held(self, failed: Request) -> None:
        if failed.stop_on_error:
            while self._held:
                self._abort(self._held.popleft()[0])

    # -- requests that are answered here ----------------------------------------------------------

    def _image(self) -> str | None:
        return self._inside.named.image if self._inside.named is not None else None

    def _kernel_info(self, request: Request, _: Message) -> None:
        named = self._inside.named
        if named is not None and named.strict and named.network == "none":
            self._info = info.without_debugger(self._info)
        self._voice.reply(request, self._inside.pinning.info(self._info))

    def _connect_info(self, request: Request, _: Message) -> None:
        self._voice.reply(request, {"status": "ok", **self._connection.ports()})

    def _interrupt_request(self, request: Request, _: Message) -> None:
        self._voice.reply(request, {"status": "ok"})
        self._interrupt()

    def _shutdown_request(self, request: Request, message: Message) -> None:
        self._voice.shutting_down(request, message)
        self._leave()

    def _interrupt(self) -> None:
        for waiting in (self._early, self._held):
            for request, _ in [pair for pair in waiting if pair[0].is_cell]:
                self._abort(request)
            kept = [pair for pair in waiting if not pair[0].is_cell]
            waiting.clear()
            waiting.extend(kept)
        if self._ready and self._interrupts:
            self._interrupts.interrupt()

    def _leave(self) -> None:
        """The kernel is to end: the inside may tidy up, for a bounded time."""
        if self._leave_at is not None:
            return
        self._leave_at = time.monotonic() + (LEAVE_SECONDS if self._ready else 0)
        if self._ready:
            self._say_inside("control", "shutdown_request", {"restart": False})

    def _say_inside(self, channel: str, kind: str, content: dict[str, Any]) -> str:
        """A request of the relay's own; its answers have a parent that no client knows."""
        msg_id = secrets.token_hex(16)
        header = contents.encode(
            {"msg_id": msg_id, "msg_type": kind, "session": msg_id, "username": "", "date": None,
             "version": "5.4"}
        )  # fmt: skip
        made: list[Buffer] = frames(
            self._inner_signer, header, EMPTY, EMPTY, contents.encode(content)
        )
        assert self._inside.channels
        self._inside.channels.links[channel].send(made)
        return msg_id

    # -- from the inside --------------------------------------------------------------------------

    def _read_link(self, name: str, link: Link) -> int:
        """Takes what is there; how many messages it was."""
        assert self._outgoing
        if link.writing:
            link.flush()
        if name in ("shell", "control") and self._inside.channels:
            # Outputs were written before the reply to their cell: they go out before it.
            self._read_link("iopub", self._inside.channels.links["iopub"])
        if link.ended or (name == "iopub" and self._outer.congested and self._leave_at is None):
            return 0
        number = link.fileno()
        try:
            messages = link.read()
        except errors.BadMessage:
            self._outgoing.drop("no ZMTP")
            link.ended = True
            messages = []
        for received in messages:
            if name == "iopub":
                self._outgoing.published(received)
            elif name == "stdin":
                self._outgoing.asked(received)
            else:
                self._outgoing.replied(name, received)
        if link.ended:
            self._unwatch(number)
        return len(messages)

    def _probe(self) -> None:
        """Asks the inside who it is: its reply, and its status on iopub, show that both work."""
        self._probe_again = None
        if not self._ready:
            self.probe_id = self._say_inside("shell", "kernel_info_request", {})

    def probe_published(self) -> None:
        """The inner iopub is connected."""
        self._probe_seen = True
        self._become_ready()

    def probe_replied(self, message: Message) -> None:
        """The inner shell answers."""
        if message.header.msg_type != "kernel_info_reply":
            return
        with suppress(msgspec.MsgspecError, UnicodeError):
            self._probe_info = contents.kernel_info.decode(message.content)
        if not self._probe_seen:
            self._probe_again = time.monotonic() + PROBE_SECONDS
        self._become_ready()

    def _become_ready(self) -> None:
        if self._ready or not (self._probe_seen and self._probe_info):
            return
        self._ready = True
        self._probe_again = None
        self._info = info.merged(self._info, self._probe_info)
        self._inside.answers.set()
        while self._early:
            self._admit(*self._early.popleft())

    def cell_began(self, request: Request) -> None:
        """Its `busy` has come out."""
        container = self._inside.container
        if container and container.not_in_force and not self._told_lacking:
            self._told_lacking = True
            text = "[sandbox: " + "; ".join(container.not_in_force) + "]\n"
            self._voice.publish("stream", {"name": "stderr", "text": text}, request)
        if self._interrupts:
            self._interrupts.began(request)

    def show_input(self, request: Request, count: int) -> None:
        """`execute_input`, with the code that the client sent."""
        if request.input_seen:
            return
        request.input_seen = True
        content = {"code": request.code or "", "execution_count": count}
        self._voice.publish("execute_input", content, request)

    def cell_replied(self, request: Request, status: str) -> None:
        """Its reply has come out."""
        if self._interrupts:
            self._interrupts.ended(request)
        if status == "error" and request.on_main and not request.silent:
            self._abort_held(request)

    def renamed(self, request: Request, failed: contents.Failure) -> dict[str, Any] | None:
        """Another content for an error that the relay caused."""
        return self._interrupts.renamed(request, failed) if self._interrupts else None

    def with_usage(self, request: Request, metadata: bytes) -> bytes:
        """The metadata of a cell's reply, with what the cell used."""
        fields = contents.fields.decode(metadata)
        if self._inside.container:
            with suppress(errors.SandboxError, OSError, TimeoutError):
                after = cgroups.usage(self._inside.container.cgroup_paths())
                told = usage.of_cell(self._before, after)
                self._before = after
                request.used = told
                fields["sandbox_kernel"] = msgspec.Raw(contents.encode({"usage": told}))
        return contents.encode(fields)

    # -- the end ----------------------------------------------------------------------------------

    def _close(self) -> None:
        """The container first, then what clients still have to get."""
        inside = self._inside
        for request in self._ledger.open():
            request.failed = request.failed or "the kernel ended"
            self._ledger.close(request)
        self._widgets.close()
        if inside.settled.is_set() and inside.container:
            with suppress(errors.SandboxError, OSError, TimeoutError):
                inside.container.remove()
        if inside.settled.is_set() and inside.channels:
            inside.channels.close()
        if self._status == ERROR_STATUS:
            told = time.monotonic() + TOLD_SECONDS
            while (left := told - time.monotonic()) > 0:
                self._outer.pump()
                wait = AGAIN_SECONDS if self._outer.congested else left
                if self._outer.iopub.poll(math.ceil(wait * 1000)):
                    self._voice.welcome()
        self._outer.close()


_LOCAL: dict[str, Callable[[Relay, Request, Message], None]] = {
    "kernel_info_request": Relay._kernel_info,
    "connect_request": Relay._connect_info,
    "interrupt_request": Relay._interrupt_request,
    "shutdown_request": Relay._shutdown_request,
}
