"""Holds the state of a notebook in mode `carry`, and forks for each cell. The main program there.

Descriptors: 0-2 as usual, 3 this program, 4-7 those of a cell (see `cell.py`) or /dev/null, 8 the
control socket. The outside sends one request at a time, `fork` with the control socket of the
fork, `run` with the descriptors of a cell. A fork serves just as its parent did: it runs one cell,
and if that went well the outside asks it for the next fork. So the parent is the state before.
"""

import _signal
import array
import fcntl
import json
import os
import socket
import sys

from . import cell, display
from . import channel as channels

CONTROL = 8
LONGEST = 1 << 16
MOST_DESCRIPTORS = 8
OF_A_CELL = (1, 2, 4, 5, 6, 7)
OURS = (0, *OF_A_CELL)
ASK_SECONDS = 5
NAMED = 20


def main():
    """Serves until the outside lets go."""
    os.close(cell.PROGRAM)
    control = socket.socket(fileno=fcntl.fcntl(CONTROL, fcntl.F_DUPFD_CLOEXEC, CONTROL + 1))
    os.close(CONTROL)
    hold_interrupts()
    import faulthandler
    import linecache  # noqa: F401 - so that the lines of each cell are put there at once

    faulthandler.enable(file=2)
    State(control).serve()


class State:
    """The variables, and what of this process lives longer than a cell."""

    def __init__(self, control):
        self.control = control
        null = os.open("/dev/null", os.O_RDWR)
        self.null = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, CONTROL + 1)
        os.close(null)
        for number in range(4, 8):  # never for the user's own files
            os.dup2(self.null, number, inheritable=False)
        self.namespace = cell.main_module()
        self.channel = channels.Channel(cell.EVENTS, cell.ANSWERS)
        channels.redirect(self.channel)
        self.channel.begin()
        self.display = display.Display(self.channel)
        self.children = []
        self.told = set()

    def serve(self):
        self.control.send(b'{"at":"ready"}')
        while True:
            data, descriptors = self.receive()
            if not data:
                os._exit(0)
            message = json.loads(data)
            getattr(self, message["do"])(message, descriptors)

    def receive(self):
        """One request and its descriptors; no data at the end."""
        room = socket.CMSG_SPACE(4 * MOST_DESCRIPTORS)
        data, control, _, _ = self.control.recvmsg(LONGEST, room, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, packed in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(packed[: len(packed) - len(packed) % 4])
        return data, list(descriptors)

    # -- forks

    def fork(self, message, descriptors):
        """A fork that serves on the socket that came."""
        (control,) = descriptors
        self.reap(message, ())
        chosen = random_states()
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            os.close(control)
            self.children.append(pid)
            return
        self.control.close()
        self.control = socket.socket(fileno=control)
        self.control.set_inheritable(False)
        self.children = []
        self.channel.process = os.getpid()
        put_random_states(chosen)
        self.control.send(b'{"at":"ready"}')

    def reap(self, message, descriptors):
        """Forks that are over leave nothing behind."""
        for pid in list(self.children):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.children.remove(pid)
            except ChildProcessError:
                self.children.remove(pid)

    def ping(self, message, descriptors):
        """Still there."""
        self.control.send(b'{"at":"answer"}')

    def how(self, message, descriptors):
        """How the last fork ended: its status, or minus the signal."""
        status = 1
        for pid in self.children[-1:]:
            found = os.waitpid(pid, 0)[1]
            status = -os.WTERMSIG(found) if os.WIFSIGNALED(found) else os.WEXITSTATUS(found)
            self.children.remove(pid)
        self.control.send(json.dumps({"at": "answer", "status": status}).encode())

    # -- a cell

    def run(self, message, descriptors):
        """Runs the cell in this process, and says how it went."""
        for index, number in enumerate(message["numbers"]):
            os.dup2(descriptors[index], number, inheritable=number < 3)
            os.close(descriptors[index])
        size = int.from_bytes(os.pread(cell.REQUEST, 8, 0), "little")
        request = cell.marshal.loads(os.pread(cell.REQUEST, size, 8))
        for stream in self.channel.streams.values():
            stream.position = 0
        self.channel.last_stream = 0
        status = 1
        try:
            status = Carried(request, self).run()
            flush_all()
        except KeyboardInterrupt:
            pass
        hold_interrupts()
        for number in OF_A_CELL:
            os.dup2(self.null, number, inheritable=number < 3)
        said = {"at": "over", "status": status, "threads": threads(), "mapped": maps_files()}
        said["left"] = [
            line for line in not_carried(self.control.fileno()) if line not in self.told
        ][:NAMED]
        self.told.update(said["left"])
        self.control.send(json.dumps(said).encode())

    # -- questions: answered by a fork that ends, so that they change nothing

    def complete(self, message, descriptors):
        self.ask(lambda: {"matches": matches(self.namespace, message["word"], message["before"])})

    def inspect(self, message, descriptors):
        self.ask(lambda: {"text": described(self.namespace, message["name"], message["detail"])})

    def ask(self, question):
        pid = os.fork()
        if pid == 0:
            try:
                _signal.alarm(ASK_SECONDS)
                self.control.send(in_one_message(question()))
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(pid, 0)[1]:
            self.control.send(b'{"at":"answer"}')


def in_one_message(answer):
    """An answer as it is sent: a text or list that is too long for a message loses its end."""
    while len(body := json.dumps({**answer, "at": "answer"}).encode()) > LONGEST:
        answer = {name: value[: len(value) // 2] for name, value in answer.items()}
    return body


class Carried(cell.Cell):
    """One request, in the namespace that the cells before it left."""

    is_last = False

    def __init__(self, request, state):
        self.request = request
        self.channel = state.channel
        self.source = request["code"]
        self.name = request["name"]
        self.text = "\n" * (request["first_line"] - 1) + self.source
        self.display = state.display
        self.namespace = state.namespace

    def take_inputs(self):
        # From here on an interrupt is an error of the cell: one that came early comes now.
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))
        if self.request["inputs"]:
            super().take_inputs()
            # It has closed it; the number stays ours.
            os.dup2(cell.ANSWERS, cell.REQUEST, inheritable=False)


def hold_interrupts():
    """An interrupt is for a cell: those for none are forgotten, one for the next waits."""
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))


def flush_all():
    """What was printed goes out before the pipes are let go, through C's buffers too."""
    channels.flush()


def random_states():
    """The generator of `random` is seeded anew in each fork: a state has to stay what it was."""
    module = sys.modules.get("random")
    try:
        return module and module.getstate()
    except Exception:
        return None


def put_random_states(chosen):
    if chosen is not None:
        sys.modules["random"].setstate(chosen)


def threads():
    """The names of threads that run beside the main one: a fork has none of them."""
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    main_thread = threading.main_thread()
    return [str(one.name)[:100] for one in threading.enumerate() if one is not main_thread][:NAMED]


def maps_files():
    """Whether a file may be written through a map, which changes none of its times."""
    return "mmap" in sys.modules


def not_carried(control):
    """Lines about what belongs to this process, or is shared with the states before."""
    for name in threads():
        yield "thread `%s` ends with this cell" % name
    for kind, count in descriptors_of_kinds(control).items():
        if count:
            yield "%d open %s: shared with the states before, so not put back" % (count, kind)
    count = living_children()
    if count:
        yield "%d process%s that this cell started: not put back, and no child of the next cell" % (
            count,
            "" if count == 1 else "es",
        )


def descriptors_of_kinds(control):
    counts = {"socket": 0, "pipe": 0}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return counts
    for name in names:
        if int(name) in OURS or int(name) == control:
            continue
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        for kind in counts:
            if target.startswith(kind + ":"):
                counts[kind] += 1
    return counts


def living_children():
    try:
        with open("/proc/self/task/%d/children" % os.getpid(), encoding="ascii") as file:
            return len(file.read().split())
    except OSError:
        return 0


def matches(namespace, word, before):
    """Names that may stand for the word: by rlcompleter, and where that has none by jedi."""
    import rlcompleter

    completer = rlcompleter.Completer(namespace)
    found = completer.attr_matches(word) if "." in word else completer.global_matches(word)
    names = [one.rpartition(".")[2].rstrip("( ") for one in found]
    if not names:
        try:
            import jedi

            names = [one.name for one in jedi.Interpreter(before, [namespace]).complete()]
        except Exception:
            names = []
    return names[:500]


def described(namespace, name, detail):
    """Signature, type, value and documentation of a dotted name."""
    import inspect

    first, *rest = name.split(".")
    value = namespace[first] if first in namespace else getattr(cell.builtins, first)
    for part in rest:
        value = getattr(value, part)
    lines = []
    try:
        lines.append("Signature: %s%s" % (name, inspect.signature(value)))
    except (TypeError, ValueError):
        lines.append("String form: %s" % display.plain(value)[:1000])
    lines.append("Type: %s" % type(value).__name__)
    text = inspect.getdoc(value)
    if text:
        lines.append("\n" + text)
    if detail:
        try:
            lines.append("\n" + inspect.getsource(value))
        except (TypeError, OSError):
            pass
    return "\n".join(lines)[:30000]
