"""One program of the workload: does one kind of work again and again, and checks what it gets.

`python -m chaos.work KIND FOLDER` writes a line of JSON after each step. It ends when its standard
input does. A step that fails by an error of ours is a step too: while there are faults, some must.
What must never be is `wrong`: another result, an exception that is not ours, no answer at all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import kernels

import sandbox_kernel
from sandbox_kernel import errors, image, policy, settings
from sandbox_kernel.building.build import build
from sandbox_kernel.building.request import BuildRequest
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.image.store import Store

LIMITS = {"memory": "192m", "pids_limit": 64}
ANSWER_SECONDS = 40.0
OF_THE_PROGRAM = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.EIO, errno.EBUSY,
                  errno.ENOSPC)  # fmt: skip
NO_THREAD = "can't start new thread"
"""What a program that has nothing left itself may be told as Python tells it."""
PAUSE_SECONDS = 0.2
_REPORT = os.dup(1)
"""Standard output as it was; what programs below this one write there goes to standard error."""
SERVER = """
import http.server as h
h.ThreadingHTTPServer(('', 80), h.SimpleHTTPRequestHandler).serve_forever()
"""
REACH = """
import socket, time
def reach(host, port, seconds=0):
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), 2).close()
            return "reached"
        except OSError as error:
            if not isinstance(error, ConnectionRefusedError) or time.monotonic() > end:
                return type(error).__name__
gateway = [line.split()[2] for line in open("/proc/net/route").readlines()[1:]]
gateways = {{socket.inet_ntoa(bytes.fromhex(word)[::-1]) for word in gateway}} - {{"0.0.0.0"}}
found = [reach("chaos-web-{pid}", 80, 10), *(reach(host, {port}) for host in gateways)]
"""


class Wrong(Exception):
    """What no fault may lead to."""


class KernelDied(Exception):
    """Its process ended, which Jupyter shows, and a restart mends."""


def say(kind: str, **facts: object) -> None:
    """One line to whoever started this."""
    line = json.dumps({"kind": kind, **facts}).encode() + b"\n"
    for _ in range(10):  # a fault may be meant for this very call, and a report is none of ours
        with contextlib.suppress(OSError):
            os.write(_REPORT, line)
            return


class Fresh:
    """Each cell in a container of its own, mostly a ready one."""

    def __init__(self, folder: Path) -> None:
        pass

    def step(self, number: int) -> None:
        found = sandbox_kernel.run(f"print({number} ** 2)", **LIMITS).check()
        expect(found.stdout, f"{number**2}\n")

    def close(self) -> None:
        pass


class Held:
    """One container for many cells, with a folder of the host in which they save."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"mounted-{os.getpid()}"
        self._folder.mkdir()
        self._folder.chmod(0o777)
        self._sandbox: sandbox_kernel.Sandbox | None = None
        self._noted = 0

    def step(self, number: int) -> None:
        if self._sandbox is None:
            mounted = f"source={self._folder},target=/data"
            self._sandbox = sandbox_kernel.Sandbox(mount=[mounted], **LIMITS)
            self._noted = 0
        code = (
            "import os\n"
            "with open('notes', 'a+') as notes:\n"
            f"    notes.seek(0); seen = len(notes.read()); notes.write('.')\n"
            f"with open('/data/{number}', 'w') as note:\n"
            f"    note.write('{number}'); note.flush(); os.fsync(note.fileno())\n"
            "print(seen)"
        )
        try:
            found = self._sandbox.run(code).check()
        except errors.SandboxError:
            with contextlib.suppress(errors.SandboxError):
                self.close()
            self._sandbox = None
            raise
        expect(found.stdout, f"{self._noted}\n")
        self._noted += 1
        say("saved", what="file", key=str(self._folder / str(number)), value=str(number))

    def close(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()


class Network:
    """A server and a client in a named network, which leads to each other and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self._server: Container | None = None
        # On every address of this machine: who gets there from a container has a way out.
        self._canary = socket.create_server(("0.0.0.0", 0))

    def step(self, number: int) -> None:
        try:
            self._try()
        except errors.SandboxError:
            with contextlib.suppress(errors.SandboxError):
                self.close()
            self._server = None
            raise
        finally:
            if select.select([self._canary], [], [], 0)[0]:
                raise Wrong("a container reached the machine that its network does not lead to")

    def _try(self) -> None:
        plan = policy.plan(settings.PROGRAM, name=f"chaos-web-{os.getpid()}", network="chaos")
        if self._server is None:
            spec = ProcessSpec(argv=("python", "-c", SERVER), logged=True)
            self._server = Container.create(plan, process=spec)
        code = REACH.format(pid=os.getpid(), port=self._canary.getsockname()[1])
        found = sandbox_kernel.run(code, network="chaos", outputs=["found"]).check()
        if "reached" in found.outputs["found"][1:]:
            raise Wrong("a container reached a port of this machine over its network")
        if found.outputs["found"][0] != "reached":
            raise errors.ContainerError(f"the server is out of reach: {found.outputs['found']}")

    def close(self) -> None:
        if self._server is not None:
            self._server.remove()


class Images:
    """Loads an image from a layout, builds another, runs what it built."""

    def __init__(self, folder: Path) -> None:
        self._layout = folder / "layout"
        self._context = folder / f"context-{os.getpid()}"
        self._context.mkdir(exist_ok=True)
        shutil.copy(folder / "says", self._context / "says")

    def step(self, number: int) -> None:
        store = Store.open()
        image.resolve(f"oci:{self._layout}")
        (self._context / "note").write_text(str(number))
        name = f"chaos-{os.getpid()}-{number}:1"
        text = f"FROM oci:{self._layout}\nCOPY note /etc/note\nCOPY says /bin/built\n"
        text += 'RUN ["/bin/built"]\n'
        request = BuildRequest(
            context=str(self._context),
            text=text,
            name=name,
            plan=policy.plan(settings.PROGRAM, **LIMITS),
            allow_image=lambda _: None,
        )
        try:
            made = build(store, request)
        except OSError as error:
            raise Wrong(f"a build does not say what it could not do: {error!r}") from error
        say("saved", what="image", key=name, value=made.digest)
        found = sandbox_kernel.run("", name, program="/bin/built").check()
        expect(found.stdout, "it runs\n")
        if number % 4 == 3:
            store.prune(wait=False)

    def close(self) -> None:
        pass


class Variables:
    """A kernel whose cells share a variable: what a cell said to be done is there for the next."""

    argv = kernels.ARGV
    options: ClassVar[dict[str, object]] = {"holder": False}

    def __init__(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._kernel: kernels.Kernel | None = None
        self._count: int | None = None
        self._told = False

    def step(self, number: int) -> None:
        try:
            self._cell()
        except KernelDied:
            self._forget()
            raise errors.LauncherGone("the kernel ended, and is started again") from None

    def _cell(self) -> None:
        if self._kernel is None:
            starting = kernels.Starting(self.argv, **self.options, **LIMITS)
            try:
                self._kernel = self._stack.enter_context(starting.ready())
            except RuntimeError:  # jupyter_client: it ended, or did not answer, before it was ready
                if starting.manager.is_alive():
                    raise Wrong("a kernel that starts does not answer") from None
                raise KernelDied from None
            self._count = None
        if self._count is None:
            self._run("x = 0")
            self._count = 0
        text = self._run("x += 1; print(x)")
        expect(text, f"{self._count + 1}\n")
        self._count += 1
        self._told = False

    def _run(self, code: str) -> str:
        assert self._kernel is not None
        manager, client = self._kernel.manager, self._kernel.client
        sent = client.execute(code)
        reply, text = None, ""
        idle = False
        deadline = time.monotonic() + ANSWER_SECONDS
        while reply is None or not idle:
            if not manager.is_alive():
                raise KernelDied
            if time.monotonic() > deadline:
                raise Wrong(f"no answer of a living kernel in {ANSWER_SECONDS:g} s: {code}")
            with contextlib.suppress(Exception):  # queue.Empty, of whichever kind
                found = client.get_iopub_msg(timeout=0.2 if not idle else 0)
                if found["parent_header"].get("msg_id") == sent:
                    if found["msg_type"] == "stream" and found["content"]["name"] == "stdout":
                        text += found["content"]["text"]
                    idle = found["content"].get("execution_state") == "idle"
            with contextlib.suppress(Exception):
                found = client.get_shell_msg(timeout=0 if not idle else 0.2)
                if found["parent_header"]["msg_id"] == sent:
                    reply = found["content"]
        if reply["status"] != "ok":
            name = str(reply.get("ename"))
            why = f"{name}: {reply.get('evalue')}"
            if name in ("NameError", "SyntaxError", "TypeError") and not self._told:
                raise Wrong(f"lost without a word: {why}")
            self._told = True
            if name == "NameError":
                self._count = None
            raise errors.ContainerError(why)
        return text

    def _forget(self) -> None:
        stack, self._stack = self._stack, contextlib.ExitStack()
        self._kernel = self._count = None
        self._told = False
        stack.close()

    def close(self) -> None:
        self._forget()


class Warm(Variables):
    """The same kernel, kept warm: a stub, and a relay that was forked."""

    options: ClassVar[dict[str, object]] = {"holder": True}


class Carry(Variables):
    """Sandbox Cells in mode `carry`: each cell is a fork of the state after the last."""

    argv = kernels.CELLS
    options: ClassVar[dict[str, object]] = {"holder": False, "mode": "carry"}


KINDS: dict[str, Callable[[Path], Fresh | Held | Network | Images | Variables]] = {
    "fresh": Fresh,
    "held": Held,
    "network": Network,
    "images": Images,
    "kernel": Variables,
    "warm": Warm,
    "carry": Carry,
}


def expect(found: object, wanted: object) -> None:
    """Raises Wrong when they differ."""
    if found != wanted:
        raise Wrong(f"got {found!r}, not {wanted!r}")


def main(kind: str, folder: str) -> None:
    """Works until the end of standard input."""
    os.dup2(2, 1)
    worker: Fresh | Held | Network | Images | Variables | None = None
    number = 0
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        try:
            if worker is None:
                worker = KINDS[kind](Path(folder))
            worker.step(number)
            say("step", number=number)
        except errors.SandboxError as error:
            say("failed", number=number, why=f"{type(error).__name__}: {error}")
        except (OSError, RuntimeError) as error:
            own = getattr(error, "errno", 0) in OF_THE_PROGRAM or str(error) == NO_THREAD
            why = f"{type(error).__name__}: {error}"
            say("failed" if own else "wrong", number=number, why=why, trace=traceback.format_exc())
        except BaseException as error:
            say("wrong", number=number, why=f"{type(error).__name__}: {error}",
                trace=traceback.format_exc())  # fmt: skip
        number += 1
    with contextlib.suppress(errors.SandboxError):
        if worker is not None:
            worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
