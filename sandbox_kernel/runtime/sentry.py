"""The keeper of a container of gVisor: `--runtime runsc`, a kernel of its own in user space.

What differs from `keeper`: processes inside are none of this machine, so a run is the `runsc exec`
that waits for it; only the three standard descriptors can be handed in, so others are carried
over these (`ferry`); pid 1 lives as long as its standard input is open; copies of files are made
from outside, in the tree that gVisor reads.
"""

from __future__ import annotations

import errno
import os
import signal

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import first_process, mounts, processes, writing
from sandbox_kernel.runtime import becoming, ferry, payload, rootfs
from sandbox_kernel.runtime.cgroups import files
from sandbox_kernel.runtime.keeper import (
    BUNDLE,
    ENVIRONMENT,
    PROCESS,
    STAGE,
    Keeper,
    write,
)
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FIRST = "/.sandbox-init"
"""Where pid 1 is in the root: what gVisor runs has to have a path there."""


class Sentry(Keeper):
    """A container behind gVisor."""

    left_out = ("user", "cgroup", "time")

    def binds_beside(self, mount: Mapping[str, Any]) -> bool:
        """All is in the one tree that gVisor reads, so that copies of files find it."""
        return False

    def holding(self) -> dict[str, Any]:
        """Pid 1, by its path."""
        return {**super().holding(), "args": [FIRST]}

    def start_first(self, life: int) -> int:
        """Pid 1, with its life as standard input; returns the process that is gVisor's kernel."""
        self.put_program(first_process.image(os.uname().machine, life=0))
        words = ["run", "--detach", "--bundle", BUNDLE]
        entrances = [os.dup(entrance) for entrance in self.entrances]
        return self.call(words, {0: life}, entrances)

    def put_program(self, data: bytes) -> None:
        """A file of ours in the root, mounted there: it is in no layer. Raises StepFailed."""
        path = f"{STAGE}/init"
        with step("make", FIRST):
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o555)
            writing.whole(file, data)
            os.close(file)
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            tree = mounts.clone_tree(place, recursive=False)
            os.close(place)
        rootfs.put_now(self.root, FIRST, tree, directory=False)

    def call(self, words: list[str], numbers: Mapping[int, int], entrances: list[int]) -> int:
        """As `Keeper.call`, with no more descriptors than gVisor takes."""
        standard = {number: ours for number, ours in numbers.items() if number < 3}
        return super().call(words, standard, entrances)

    def descriptors_words(self, last: int) -> list[str]:
        """It has no option for more descriptors."""
        return []

    def start_run(
        self, process: Mapping[str, Any], numbers: Mapping[int, int], entrances: list[int]
    ) -> int:
        """A process of ours that waits for the run and ends as it did. Closes `entrances`."""
        if "transfer" in process:
            return self.copy(process, numbers, entrances)
        described = self.process(process)
        carried = any(number > 2 for number in numbers)
        self.refuse_missing(process)
        if carried:
            carrier = self.order["wall"]["carrier"]
            program = [process["args"][0], "-I", "-S", "-c", f"{carrier}\nmain()"]
            described = {**described, "args": program}
        write(PROCESS, described)
        argv = [*self.runtime, "exec", "--process", PROCESS, self.order["id"]]
        pid = os.fork()
        if pid == 0:
            self._be_run(argv, process, numbers, entrances, carried=carried)
        for entrance in entrances:
            os.close(entrance)
        return pid

    def refuse_missing(self, process: Mapping[str, Any]) -> None:
        """gVisor has one status for all that can't be started. Raises StepFailed."""
        environment = dict(entry.partition("=")[::2] for entry in process.get("env", ()))
        name = process["args"][0]

        def ask() -> int:
            found = becoming.paths_of(name, environment.get("PATH", ""))
            if any(os.access(path, os.X_OK) and not os.path.isdir(path) for path in found):
                return 0
            there = any(os.path.lexists(path) for path in found)
            return errno.EACCES if there else errno.ENOENT

        if number := self.in_root(ask):
            raise StepFailed("execute", name, os.strerror(number), number)

    def _be_run(
        self,
        argv: list[str],
        process: Mapping[str, Any],
        numbers: Mapping[int, int],
        entrances: list[int],
        *,
        carried: bool,
    ) -> None:
        try:
            files.enter(entrances)
            os.setsid()
            if not carried:
                becoming.arrange(numbers, None)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                os.execve(argv[0], argv, ENVIRONMENT)
            inner_in, ours_in = os.pipe2(os.O_CLOEXEC)
            ours_out, inner_out = os.pipe2(os.O_CLOEXEC)
            if os.fork() == 0:
                processes.end_with_parent()
                becoming.arrange({0: inner_in, 1: inner_out}, None)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                os.execve(argv[0], argv, ENVIRONMENT)
            processes.set_name("sandbox-ferry")
            processes.close_all_but((ours_in, ours_out, *numbers.values()))
            ferry.Ferry(numbers, ours_in, ours_out).run(process["args"])
        finally:
            os._exit(payload.NOT_EXECUTABLE)

    def copy(
        self, process: Mapping[str, Any], numbers: Mapping[int, int], entrances: list[int]
    ) -> int:
        """Our own copying, by a process whose root is the container's tree."""
        report, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        numbers = {0: null, 1: null, 2: null, **numbers}
        pid = os.fork()
        if pid == 0:
            try:
                os.fchdir(self.root)
                os.chroot(".")
                payload.enter(process, numbers, entrances, self.order["program"], end)
            finally:
                os._exit(payload.NOT_EXECUTABLE)
        os.close(end)
        os.close(null)
        self.reports[pid] = report
        for entrance in entrances:
            os.close(entrance)
        return pid
