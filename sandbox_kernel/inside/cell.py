"""Runs one notebook cell inside a container and reports what it did. The main program there.

Descriptors: 0-2 as usual, 3 this program, 4 the request (sealed), 5 frames out, 6 answers to them,
7 where values go out, if any are wanted. See `channel.py` for frames, `boot.py` for the start.
"""

import _signal
import _thread
import builtins
import marshal
import os
import sys
from _ast import Call, Expr, Load, Name, PyCF_ALLOW_TOP_LEVEL_AWAIT, PyCF_ONLY_AST

from . import channel as channels
from . import display, hooks

PROGRAM, REQUEST, EVENTS, ANSWERS, VALUES = 3, 4, 5, 6, 7
COROUTINE = 0x80  # CO_COROUTINE of the flags of a code object
SHOW = "<show the last expression>"  # no program can use this name, or see it among its own
COMMAND = "<run a command>"
RETURNS_NOTHING = (None, 0)


def main(channel=None):
    """Reads the request, runs the cell, reports, and ends the process with the cell's status.

    `channel`: of `prepare`, in the template whose fork this is."""
    os.close(PROGRAM)
    for number in range(4, 8):
        try:
            os.set_inheritable(number, False)
        except OSError:
            break
    size = int.from_bytes(os.pread(REQUEST, 8, 0), "little")
    request = marshal.loads(os.pread(REQUEST, size, 8))
    channel = channel or prepare()
    channel.begin()
    status = finish(Cell(request, channel).run(), channel)
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    # The last word: where nothing else goes on in this container, the outside may end it now.
    channel.send({"kind": "done", "status": status})
    os._exit(status)


def prepare():
    """The channel, with standard streams to it: needs no request, and no descriptor of it yet."""
    import faulthandler

    faulthandler.enable(file=2)
    sys.argv[:] = [""]
    # A new name among the builtins makes all code look them up again, which each fork would write.
    builtins.__dict__.setdefault("display", display.display)
    builtins.__dict__.setdefault(SHOW, None)
    channel = channels.Channel(EVENTS, ANSWERS)
    channels.redirect(channel)
    return channel


REHEARSAL = """
import os, sys
def words(value, *more, **named):
    return [str(item) for item in (value, *more) if item is not None]
for number in range(3):
    total = sum(each * 2 for each in range(number))
with open(os.devnull) as file:
    text = f"{file.read()!r} {total:.2f}"
try:
    print(words(1, None, key=text), flush=True)
except (ValueError, KeyError) as error:
    raise RuntimeError from error
{1: str(total)}
"""


def rehearse():
    """Goes the way of a cell with nothing to say: a fork copies each page that it first writes to,
    and these copies are then made before anybody waits for them. Leaves nothing behind."""
    kept = sys.modules["__main__"], sys.stdout, sys.argv[:], display.current
    names = {name: builtins.__dict__[name] for name in (SHOW, "display") if hasattr(builtins, name)}
    backend = os.environ.get("MPLBACKEND")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    request = {"code": REHEARSAL, "name": "<cell>", "first_line": 1, "shell_lines": False}
    request.update(shows=True, compiled=b"", inputs=[], outputs=[])
    try:
        inputs, outputs = (os.memfd_create("values", os.MFD_CLOEXEC) for _ in range(2))
    except (AttributeError, OSError):  # a strict filter allows none, and not each Python knows it
        inputs, outputs = os.dup(null), os.dup(null)
    else:
        os.pwrite(inputs, b"[1]", 0)
        os.ftruncate(outputs, 4096)
        request.update(inputs=[("total", "json", 0, 3, {})], outputs=["total"])
    channel = channels.Channel(null, null)
    channel.begin()
    try:
        sys.stdout = channels.text_stream(channels.Stream(null, channel), "strict")
        request = marshal.loads(marshal.dumps(request))
        cell = Cell(request, channel)
        cell.inputs, cell.outputs = inputs, outputs
        channel.send({"kind": "done", "status": cell.run()})
    finally:
        sys.modules["__main__"], sys.stdout, sys.argv[:], display.current = kept
        if backend is None:
            os.environ.pop("MPLBACKEND", None)
        if "linecache" in sys.modules:
            sys.modules["linecache"].cache.pop("<cell>", None)
        for name in (SHOW, "display"):
            if name in names:
                setattr(builtins, name, names[name])
            else:
                delattr(builtins, name)
        os.close(null)
        os.close(outputs)


def finish(status, channel):
    """What the interpreter does at its end, but for taking itself to pieces."""
    try:
        threading = sys.modules.get("threading")
        atexit = sys.modules.get("atexit")
        if atexit is None:
            import atexit
        if _thread._count() or atexit._ncallbacks():
            channel.let_go()  # code of the cell runs yet, and may be the end of this process
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException as problem:
        sys.excepthook(type(problem), problem, problem.__traceback__)
    channels.flush()
    return status


class Cell:
    """One request on its way."""

    inputs, outputs = REQUEST, VALUES
    """Descriptors of where values come from and go to."""
    is_last = True
    """Whether its process ends with it, and says so."""

    def __init__(self, request, channel):
        self.request = request
        self.channel = channel
        self.source = request["code"]
        self.name = request["name"]
        self.text = "\n" * (request["first_line"] - 1) + self.source
        self.display = display.Display(channel)
        self.namespace = main_module()

    def run(self):
        """The exit status: 0, the status that the cell asked for, or 1 after an exception."""
        hooks.install(self.display, self.name, self.text)
        builtins.display = self.display.display
        if sys.argv != [""]:
            sys.argv[:] = [""]
        status = 0
        _signal.signal(_signal.SIGINT, self.channel.on_interrupt)
        try:
            try:
                self.take_inputs()
                self.execute()
            finally:
                hooks.show_figures(self.display)
            self.give_outputs()
        except SystemExit as problem:
            status = self.ended(problem)
        except BaseException as problem:
            status = 1
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
            self.report(problem)
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        channels.flush()
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        return status

    def execute(self):
        """Compiles and runs; the value of a last expression is shown unless `;` follows it."""
        code = self.compiled_outside()
        if code is None:
            code = self.with_display() if self.request["shows"] else self.compiled(self.text)
        if not code.co_flags & COROUTINE:
            exec(code, self.namespace)
            return
        import asyncio

        asyncio.run(eval(code, self.namespace))

    def compiled_outside(self):
        """The code object that came along, if this Python has the same byte code."""
        shipped = self.request["compiled"]
        if not shipped or sys.flags.optimize:
            return None
        magic = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
        return marshal.loads(shipped[4:]) if shipped[:4] == magic else None

    def with_display(self):
        """The code, with a call of ours around a last expression."""
        tree = self.parse()
        last = tree.body[-1] if tree.body else None
        if isinstance(last, Expr) and not self.is_quiet(last):
            setattr(builtins, SHOW, self.display.result)
            place = {
                "lineno": last.lineno,
                "col_offset": last.col_offset,
                "end_lineno": last.end_lineno,
                "end_col_offset": last.end_col_offset,
            }
            shown = Call(Name(SHOW, Load(), **place), [last.value], [], **place)
            tree.body[-1] = Expr(shown, **place)
        return self.compiled(tree)

    def compiled(self, text_or_tree, flags=0):
        flags |= PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compile(text_or_tree, self.name, "exec", flags, dont_inherit=True)

    def parse(self):
        try:
            return self.compiled(self.text, PyCF_ONLY_AST)
        except SyntaxError:
            lines = self.text.split("\n")
            kept = [self.as_python(line) for line in lines]
            if kept == lines:
                raise
            return self.compiled("\n".join(kept), PyCF_ONLY_AST)

    def as_python(self, line):
        """A line that does not parse: IPython's `!command`, where the outside knows these; and the
        one magic that old notebooks can't do without, which means nothing here."""
        if line.startswith("%matplotlib"):
            return ""
        start = line.lstrip()
        if not self.request["shell_lines"] or not start.startswith("!"):
            return line
        setattr(builtins, COMMAND, run_command)
        indent = line[: len(line) - len(start)]
        return indent + "__import__('builtins').__dict__[%r](%r)" % (COMMAND, start[1:])

    def is_quiet(self, last):
        lines = self.text.encode("utf-8", "surrogatepass").split(b"\n")[last.end_lineno - 1 :]
        return b"\n".join([lines[0][last.end_col_offset :], *lines[1:]]).lstrip().startswith(b";")

    def take_inputs(self):
        if self.request["inputs"]:
            from . import values

            for name, value in values.take(self.inputs, self.request["inputs"]):
                self.namespace[name] = value
        os.close(self.inputs)

    def give_outputs(self):
        if self.request["outputs"]:
            from . import values

            wanted = self.request["outputs"]
            values.give(self.outputs, wanted, self.namespace, self.channel, self.is_last)

    def ended(self, problem):
        """sys.exit() in a cell: a status other than 0 is an error that a notebook stops at."""
        if problem.code in RETURNS_NOTHING:
            return 0
        self.report(problem)
        return problem.code & 255 if isinstance(problem.code, int) else 1

    def report(self, problem):
        """Sends the exception and its traceback, which begins in the cell."""
        channels.flush()
        from . import failure

        hint = failure.HINT_OF_CELLS if self.request["shell_lines"] else failure.HINT
        header, text = failure.describe(problem, self.name, self.text, hint)
        self.channel.send(header, text.encode("utf-8", "backslashreplace"))


def run_command(text):
    """A line `!command`: its outputs are the cell's, its status is not an error, as in IPython."""
    import subprocess

    channels.flush()
    subprocess.call(["/bin/sh", "-c", text])


def main_module():
    """A new `__main__`, so that nothing of ours is seen in it."""
    module = type(sys)("__main__", None)
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    return module.__dict__


UNREHEARSED = (main, finish)
"""What a child goes through beside what `rehearse` does."""
