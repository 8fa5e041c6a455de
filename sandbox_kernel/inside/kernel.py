"""Starts the image's own ipykernel on sockets that came as descriptors. ipykernel 6 and 7.

The outside made the listening sockets and is connected to them; no path leads to them. The
configuration, with the key of this inner connection, comes on a descriptor that is then closed.
"""

import json
import os
import signal
import sys
from contextlib import nullcontext
from threading import current_thread, main_thread
from typing import Any

PROGRAM, CONFIGURATION = 3, 4
OURS = ("<sandbox ", "<string>")  # names of the code that comes with this file, and of its start
INTERRUPTED = compile("raise KeyboardInterrupt", "<interrupted before its code began>", "exec")
AGAIN = (
    "import os;data=os.pread(3,os.fstat(3).st_size,0);"
    "exec(data[:data.index(0)]);boot(globals().pop('data'),'sandbox_inside.kernel')"
)


def main() -> None:
    """Becomes the kernel; returns when it is shut down."""
    # The modules that debugpy warns of, to stderr at each start, are those of the standard library.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    from . import application

    app: Any = application.made()
    if app.prepared and app.configured() != app.seen:
        # IPython is configured in this container alone: all is done as if there were no template.
        os.execv(sys.executable, [sys.executable, "-c", AGAIN])
    with os.fdopen(CONFIGURATION, "rb") as file:
        app.key = json.loads(file.read().decode())["key"].encode()
    for descriptor in (PROGRAM, *application.CHANNELS.values()):
        os.set_inheritable(descriptor, False)
    os.close(PROGRAM)
    try:
        app.initialize([])
    except BaseException as problem:
        # At its own end the interpreter would wait for sockets and threads that are there in part.
        sys.excepthook(type(problem), problem, problem.__traceback__)
        sys.stderr.flush()
        os._exit(1)
    # The sleep before each reply gives outputs a head start; the outside keeps them in order.
    app.kernel._execute_sleep = 0.0
    # IPython keeps a copy of all that is printed, for `%notebook`: a flood would fill the memory.
    app.kernel.shell._tee = lambda channel: nullcontext()
    app.kernel.do_history = numbered(app.kernel)
    hold_interrupts(app.kernel)
    handlers = getattr(getattr(app.kernel, "debugger", None), "started_debug_handlers", {})
    if "stackTrace" in handlers:
        handlers["stackTrace"] = without_ours(handlers["stackTrace"])
    app.start()


def hold_interrupts(kernel: Any) -> None:
    """An interrupt of a cell that has not come to its code waits for it, and is raised there.

    On the way to it, IPython and the interpreter catch a KeyboardInterrupt in some places, so that
    nothing is interrupted, and in others it costs the cell its reply. The second is raised wherever
    it comes, for the sake of hooks that hang.
    """
    before, run_code = kernel.pre_handler_hook, kernel.shell.run_code
    held: Any = None  # how many have come, while a cell is on the way to its code

    def hold(number: int, frame: Any) -> None:
        nonlocal held
        if held != 0:
            raise KeyboardInterrupt
        held = 1

    def pre_handler_hook() -> None:
        nonlocal held
        before()
        held = None
        if kernel.get_parent("shell").get("header", {}).get("msg_type") == "execute_request":
            held = 0
            signal.signal(signal.SIGINT, hold)

    def run_held_code(code: Any, result: Any = None, *, async_: bool = False) -> Any:
        nonlocal held
        if current_thread() is main_thread():  # no subshell: a signal is not for these
            if signal.getsignal(signal.SIGINT) is hold:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            if held:
                code, async_ = INTERRUPTED, False
            held = None
        return run_code(code, result, async_=async_)

    kernel.pre_handler_hook = pre_handler_hook
    kernel.shell.run_code = run_held_code


def without_ours(original: Any) -> Any:
    """The debugger's `stackTrace` without the frames that started the kernel, last in the list."""

    async def stack_trace(message: Any) -> Any:
        reply = await original(message)
        frames = reply.get("body", {}).get("stackFrames", [])
        while frames and str(frames[-1].get("source", {}).get("path")).startswith(OURS):
            frames.pop()
        return reply

    return stack_trace


def numbered(kernel: Any) -> Any:
    """`do_history` with the number of this session, where IPython says 0 in a range."""
    original = kernel.do_history

    def do_history(*arguments: Any, **options: Any) -> Any:
        reply = original(*arguments, **options)
        number = kernel.shell.history_manager.session_number
        reply["history"] = [(row[0] or number, *row[1:]) for row in reply["history"]]
        return reply

    return do_history
