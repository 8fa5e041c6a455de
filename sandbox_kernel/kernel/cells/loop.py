"""The loop of "Sandbox Cells": sockets, signals, and a thread that runs the cells.

What is asked is answered in order by that thread, so a completion sees what the cell before it
left; `kernel_info`, `is_complete`, `history`, interrupts and shutdown are answered at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import Any

import msgspec
import zmq

from sandbox_kernel import audit, errors
from sandbox_kernel.container import events as e
from sandbox_kernel.output_policy import OutputPolicy

from .. import commands as lines
from .. import contents, info, signals, usage
from ..connection import Connection
from ..outer import AGAIN_SECONDS, Outer, receive
from ..pinning import INFO, Waiting
from ..requests import Request
from ..voice import AT_ONCE, Voice, failure
from ..wire import Message, Reader, Signer
from . import answers
from .history import History
from .outputs import Outputs, error_content
from .session import Session
from .worker import Worker

MOST_QUEUED = 4096
LEAVE_SECONDS = 10.0


class CellsKernel:
    """One kernel. `run` returns the status to exit with."""

    def __init__(self, connection: Connection) -> None:
        signer = Signer(connection.key.encode(), connection.signature_scheme)
        self._connection = connection
        self._outer = Outer(connection)
        self._voice = Voice(self._outer, signer)
        self._reader = Reader(signer, replays=True)
        self._info = {**info.first(), "supported_features": [], "debugger": False}
        self._worker = Worker()
        self._outputs = Outputs()
        self._history = History()
        self._session: Session | None = None
        self._opened = threading.Event()
        self._pins = Waiting(self._opened)
        self._failure: BaseException | None = None
        self._count = 0
        self._queued = 0
        self._cells_queued = 0
        self._executing = self._interrupt_next = False
        self._lock = threading.Lock()
        self._aborted_until = 0  # jobs that were queued when a cell failed have lower numbers
        self._number = 0
        self._over = False
        self._poller = zmq.Poller()
        self._actions: dict[Any, Callable[[], None]] = {}

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Until Jupyter ends it."""
        self._worker.do(self._open)
        self._watch(self._outer.shell, self._receive_requests)
        self._watch(self._outer.control, lambda: self._receive(self._outer.control, "control"))
        self._watch(self._outer.stdin, lambda: self._receive(self._outer.stdin, "stdin"))
        self._watch(self._outer.iopub, self._voice.welcome)
        self._watch(self._worker.wake, lambda: None)
        self._signals = signals.caught()
        self._watch(self._signals[0], self._signalled)
        self._watch_parent()
        self._voice.publish("status", {"execution_state": "starting"})
        try:
            while not self._over:
                waits = self._outer.waits_for_a_listener()
                self._poller.register(self._outer.shell, 0 if waits else zmq.POLLIN)
                for ready, _ in self._poller.poll(self._patience()):
                    self._actions[ready]()
                self._outer.pump()
                self._worker.take(more=lambda: not self._outer.congested)
                for asked in self._pins.released(self._image()):
                    self._dispatch(*asked)
        finally:
            self._close()
        return 0

    def _patience(self) -> int | None:
        """Milliseconds until something is due, None for as long as it takes."""
        known = [due for due in (self._pins.due, self._outer.listener_due) if due is not None]
        dues = [due - time.monotonic() for due in known]
        dues += [AGAIN_SECONDS] if self._outer.congested else []
        return ceil(max(0.0, min(dues)) * 1000) if dues else None

    def _watch(self, what: Any, action: Callable[[], None]) -> None:
        key = what if isinstance(what, (int, zmq.Socket)) else what.fileno()
        self._actions[key] = action
        self._poller.register(key, zmq.POLLIN)

    def _signalled(self) -> None:
        with suppress(BlockingIOError):
            for number in self._signals[0].recv(256):
                if number == signal.SIGINT:
                    self._interrupt()
                elif number == signal.SIGTERM:
                    self._over = True

    def _watch_parent(self) -> None:
        try:
            parent = signals.parent()
        except ProcessLookupError:
            self._over = True
            return
        if parent is not None:
            self._watch(parent, self._leave)

    def _leave(self) -> None:
        self._over = True

    def _close(self) -> None:
        """The cell that runs is ended first, then what is left of all others."""
        # An image that is on its way is whole in the store or not at all: nobody waits for it.
        deadline = time.monotonic() + (LEAVE_SECONDS if self._opened.is_set() else 0)
        self._aborted_until = self._number + 1
        session = self._session
        if session is not None:
            session.end()
        ended = self._worker.end(max(0.0, deadline - time.monotonic()))
        if session is not None and ended:
            with suppress(errors.SandboxError, OSError, TimeoutError):
                session.close()
        self._worker.take(more=lambda: True)
        self._outer.close()

    # -- from clients -----------------------------------------------------------------------------

    def _receive_requests(self) -> None:
        if self._outer.may_be_asked():
            self._receive(self._outer.shell, "shell")

    def _receive(self, source: zmq.Socket[bytes], channel: str) -> None:
        for _ in range(AT_ONCE):
            received = receive(source)
            if received is None or self._over:
                return
            try:
                message = self._reader.read(received)
            except errors.BadMessage:
                continue  # not signed by who may speak, or no message: there is nobody to answer
            self._dispatch(Request(message, channel), message)

    def _dispatch(self, request: Request, message: Message) -> None:
        at_once = _AT_ONCE.get(request.kind)
        if request.kind == INFO and self._pins.takes(self._image(), request, message):
            return
        if at_once is not None:
            self._voice.status(request, "busy")
            at_once(self, request, message)
            self._voice.status(request, "idle")
            return
        in_order = _IN_ORDER.get(request.kind)
        if in_order is None or request.channel != "shell":
            return  # comms and debugger: `kernel_info` says that there are none
        if self._queued >= MOST_QUEUED:
            self._answer(request, {"status": "error", **failure(_too_many())})
            return
        self._queued += 1
        self._number += 1
        number = self._number
        if request.is_cell:
            with self._lock:
                self._cells_queued += 1
        self._worker.do(lambda: in_order(self, request, message, number))

    def _answer(self, request: Request, content: dict[str, Any]) -> None:
        self._voice.status(request, "busy")
        self._voice.reply(request, content)
        self._voice.status(request, "idle")

    # -- answered at once -------------------------------------------------------------------------

    def _image(self) -> str | None:
        return self._session.plan.image if self._session is not None else None

    def _kernel_info(self, request: Request, _: Message) -> None:
        session = self._session
        self._voice.reply(request, session.pinning.info(self._info) if session else self._info)

    def _connect_info(self, request: Request, _: Message) -> None:
        self._voice.reply(request, {"status": "ok", **self._connection.ports()})

    def _interrupt_request(self, request: Request, _: Message) -> None:
        self._voice.reply(request, {"status": "ok"})
        self._interrupt()

    def _interrupt(self) -> None:
        """To the cell that runs, else to the one that is on its way."""
        with self._lock:
            if self._executing and self._session is not None:
                self._session.interrupt()
            elif self._cells_queued:
                self._interrupt_next = True

    def _shutdown(self, request: Request, message: Message) -> None:
        self._voice.shutting_down(request, message)
        self._over = True

    def _is_complete(self, request: Request, message: Message) -> None:
        self._voice.reply(request, answers.is_complete(message.content))

    def _comm_info(self, request: Request, _: Message) -> None:
        self._voice.reply(request, {"status": "ok", "comms": {}})

    def _history_request(self, request: Request, message: Message) -> None:
        self._voice.reply(request, self._history.answer(message.content))

    # -- answered in order, by the worker ---------------------------------------------------------

    def _open(self) -> None:
        try:
            self._session = Session()
            os.eventfd_write(self._worker.wake, 1)  # the image's name is known
            self._session.warm()
        except (errors.SandboxError, OSError) as error:
            self._failure = error
        finally:
            self._opened.set()
            os.eventfd_write(self._worker.wake, 1)

    def _later(self, call: Callable[..., None], *arguments: Any) -> None:
        self._worker.hand_over(lambda: call(*arguments))

    def _ask_session(
        self, request: Request, message: Message, _: int, ask: Callable[[Session, Any], Any]
    ) -> None:
        """Completion and inspection: a failure is an empty answer's error."""
        try:
            content = ask(self._ready_session(), message.content)
        except (errors.SandboxError, OSError, TimeoutError, msgspec.MsgspecError) as error:
            content = {"status": "error", **failure(error)}
        self._later(self._answered, request, content)

    def _answered(self, request: Request, content: dict[str, Any]) -> None:
        self._queued -= 1
        self._answer(request, content)

    def _ready_session(self, code: str = "") -> Session:
        command = lines.find(code) if self._failure is not None else None
        if self._session is not None and command and lines.is_update(command):
            self._failure = None  # it may be what helps; what still fails says so again
        if self._session is None or self._failure is not None:
            raise self._failure or errors.ContainerError("the kernel is not ready")
        return self._session

    def _execute(self, request: Request, message: Message, number: int) -> None:
        """One cell, in the worker's thread."""
        with self._lock:
            self._cells_queued -= 1
            interrupted, self._interrupt_next = self._interrupt_next, False
            self._executing = True
        try:
            self._run_cell(request, message, number, interrupted=interrupted)
        finally:
            with self._lock:
                self._executing = False

    def _run_cell(
        self, request: Request, message: Message, number: int, *, interrupted: bool
    ) -> None:
        if number <= self._aborted_until and not self._over:
            self._later(self._answered, request, {"status": "aborted"})
            return
        if self._over:
            return
        try:
            asked = answers.execute_request.decode(message.content)
        except (msgspec.MsgspecError, UnicodeError) as error:
            bad = errors.BadMessage("read", request.kind, str(error))
            self._later(self._answered, request, {"status": "error", **failure(bad)})
            return
        request.code, request.silent = asked.code, asked.silent
        if not asked.silent:
            self._count += 1
        count = self._count or 1
        self._later(self._begin, request, count)
        if asked.store_history and not asked.silent:
            self._history.add(count, asked.code)
        told = _INTERRUPTED
        used: dict[str, Any] = {}
        if not interrupted:
            told, used = self._outcome(request, asked, count)
        if told is not None and asked.stop_on_error:
            self._aborted_until = self._number
        self._later(self._end, request, count, told, used, asked.user_expressions)

    def _outcome(
        self, request: Request, asked: answers.ExecuteRequest, count: int
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Runs it and shows what comes: the content of its error, and what it used."""
        told: dict[str, Any] | None = None
        used: dict[str, Any] = {}

        def publish(kind: str, content: dict[str, Any]) -> None:
            if not asked.silent or kind != "execute_result":
                self._later(self._voice.publish, kind, content, request)

        try:
            if not asked.code.strip():
                return None, used
            session = self._ready_session(asked.code)
            events = session.cell(asked.code, count)
            for event in events:
                policy = self._outputs.policy(session.output)
                if isinstance(event, e.Error):
                    told = told or error_content(event, policy)
                elif isinstance(event, e.Finished):
                    used = usage.of_cell(None, event.usage)
                else:
                    self._outputs.show(event, publish, count, policy, session.displays)
        except Exception as error:  # whatever it is, this thread must live to say it
            audit.refused(error, by="cells")
            told = failure(error)
        return told, used

    def _begin(self, request: Request, count: int) -> None:
        self._voice.status(request, "busy")
        if not request.silent:
            content = {"code": request.code or "", "execution_count": count}
            self._voice.publish("execute_input", content, request)

    def _end(
        self,
        request: Request,
        count: int,
        told: dict[str, Any] | None,
        used: dict[str, Any],
        expressions: dict[str, str],
    ) -> None:
        self._queued -= 1
        metadata = contents.encode({"sandbox_kernel": {"usage": used}})
        content: dict[str, Any] = {"execution_count": count}
        if told is None:
            refused = {"status": "error", **failure(_no_expressions())}
            content.update(status="ok", payload=[])
            content["user_expressions"] = dict.fromkeys(expressions, refused)
        else:
            self._voice.publish("error", told, request)
            content.update(told, status="error")
        self._voice.reply(request, content, metadata)
        self._voice.status(request, "idle")


_INTERRUPTED: dict[str, Any] | None = error_content(
    e.Error("KeyboardInterrupt", "", "KeyboardInterrupt\n"), OutputPolicy("safe")
)


def _too_many() -> errors.SandboxError:
    return errors.NotAllowed(
        "requests", MOST_QUEUED, "as many wait already", "wait for answers before asking more"
    )


def _no_expressions() -> errors.SandboxError:
    return errors.InvalidOption("user_expressions", "", "nothing: print what is wanted in the cell")


_AT_ONCE: dict[str, Callable[[CellsKernel, Request, Message], None]] = {
    "kernel_info_request": CellsKernel._kernel_info,
    "connect_request": CellsKernel._connect_info,
    "interrupt_request": CellsKernel._interrupt_request,
    "shutdown_request": CellsKernel._shutdown,
    "is_complete_request": CellsKernel._is_complete,
    "comm_info_request": CellsKernel._comm_info,
    "history_request": CellsKernel._history_request,
}


def _complete(kernel: CellsKernel, request: Request, message: Message, number: int) -> None:
    kernel._ask_session(request, message, number, answers.complete)


def _inspect(kernel: CellsKernel, request: Request, message: Message, number: int) -> None:
    kernel._ask_session(request, message, number, answers.inspect)


_IN_ORDER: dict[str, Callable[[CellsKernel, Request, Message, int], None]] = {
    "execute_request": CellsKernel._execute,
    "complete_request": _complete,
    "inspect_request": _inspect,
}
