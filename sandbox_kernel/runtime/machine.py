"""The keeper of a virtual machine: `--runtime vm`, by user-mode Linux.

A whole kernel as a process of the slot, with the container's tree as its root (hostfs) and its
memory as large as the limit says. It needs no KVM and no right. Each run boots one, which is over
when its program is; files are those of the container. Descriptors of the program go over its
console (`ferry`), memory files through a folder that is in both.
"""

from __future__ import annotations

import os
import signal

from sandbox_kernel.linux import capabilities, mounts, processes
from sandbox_kernel.runtime import becoming, ferry, payload, rootfs, sentry
from sandbox_kernel.runtime.cgroups import files
from sandbox_kernel.runtime.keeper import ENVIRONMENT, STAGE
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FIRST = "/.sandbox-init"
PASSED = "/.sandbox-passed"
WINDOW = 3000
"""Bytes that may be under way to the machine's console, which holds 4096."""
MEMORY = f"{STAGE}/memory"
"""Where user-mode Linux keeps the memory of the machine: a file on a tmpfs of the group."""
OWN_MEMORY = 48 << 20
"""What it needs itself, beside the memory of the machine."""
DEFAULT_MEMORY = 1 << 30
NAMESPACES = (
    processes.CLONE_NEWPID
    | processes.CLONE_NEWNS
    | processes.CLONE_NEWNET
    | processes.CLONE_NEWIPC
    | processes.CLONE_NEWUTS
)


class Machine(sentry.Sentry):
    """A container whose runs are machines."""

    def start_first(self, life: int) -> int:
        """Lay out what each machine finds; returns a process that only holds the container."""
        order = self.order
        with step("mount tmpfs", "the memory of machines"):
            os.mkdir(MEMORY)
            memory = mounts.new_filesystem("tmpfs", (), 0)
            place = os.open(MEMORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mounts.place(memory, place)
            os.close(place)
            os.close(memory)
            passed = mounts.new_filesystem("tmpfs", (("mode", "0700"),), 0)
        rootfs.put_now(self.root, PASSED, passed, directory=True)
        listed = [m for m in order["config"].get("mounts", ()) if m.get("type", "bind") != "bind"]
        settings = {"hostname": order["hostname"], "mounts": listed}
        self.put_program(f"{order['wall']['carrier']}\n\nboot({settings!r})\n".encode())
        pid = os.fork()
        if pid == 0:
            try:
                processes.end_with_parent()
                files.enter([os.dup(entrance) for entrance in self.entrances])
                processes.set_name("sandbox-init")
                processes.close_all_but((life,))
                os.read(life, 1)  # nothing comes but its end
            finally:
                os._exit(0)
        os.close(life)
        return pid

    def start_run(
        self, process: Mapping[str, Any], numbers: Mapping[int, int], entrances: list[int]
    ) -> int:
        """Boot a machine for it; returns a process of ours that ends as the program does."""
        if "transfer" in process:
            return self.copy(process, numbers, entrances)
        self.refuse_missing(process)
        described = self._described(process)
        pid = os.fork()
        if pid == 0:
            try:
                files.enter(entrances)
                os.setsid()
                stream_in, stream_out = self._boot()
                processes.set_name("sandbox-ferry")
                folder = f"{PASSED}/{os.getpid()}"
                os.mkdir(f"{self.root_path}{folder}", 0o700)
                processes.close_all_but((stream_in, stream_out, *numbers.values()))
                ferry.Ferry(
                    numbers,
                    stream_in,
                    stream_out,
                    window=WINDOW,
                    folder=(f"{self.root_path}{folder}", folder),
                ).run(process["args"], described)
            finally:
                os._exit(payload.NOT_EXECUTABLE)
        for entrance in entrances:
            os.close(entrance)
        return pid

    def _boot(self) -> tuple[int, int]:
        """Switch a machine on, which ends with us: descriptors to its console, and from it."""
        limit = (
            (self.order["config"]["linux"].get("resources") or {}).get("memory", {}).get("limit")
        )
        size = limit - OWN_MEMORY if limit else DEFAULT_MEMORY
        line, ours_in = os.pipe2(os.O_CLOEXEC)
        ours_out, end = os.pipe2(os.O_CLOEXEC)
        wall = self.order["wall"]
        argv = [
            wall["program"], "root=/dev/root", "rootfstype=hostfs",
            f"rootflags={self.root_path}", "rw", f"init={wall['interpreter']}",
            f"mem={size >> 20}M", f"uml_dir={MEMORY}/", "con=null", "con0=fd:0,fd:1", "quiet",
            "panic=-1", "--", "-I", "-S", FIRST,
        ]  # fmt: skip
        pid, _ = processes.clone(NAMESPACES)
        if pid == 0:
            try:
                processes.end_with_parent()
                mounts.mount("proc", "/proc", "proc", 0, "")  # of its own pid namespace
                becoming.arrange({0: line, 1: end}, None)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                os.execve(argv[0], argv, {**ENVIRONMENT, "HOME": MEMORY, "TMPDIR": MEMORY})
            finally:
                os._exit(payload.NOT_EXECUTABLE)
        os.close(line)
        os.close(end)
        return ours_in, ours_out

    def _described(self, process: Mapping[str, Any]) -> dict[str, Any]:
        """What the program shall be, in numbers alone."""
        words = self.process(process)
        user, held = words["user"], words["capabilities"]
        names = ("bounding", "effective", "permitted", "inheritable", "ambient")
        return {
            "uid": user["uid"],
            "gid": user["gid"],
            "groups": user["additionalGids"],
            "cwd": words["cwd"],
            "env": dict(entry.partition("=")[::2] for entry in words["env"]),
            "rlimits": [
                (limit["type"], becoming.rlimit(limit["soft"]), becoming.rlimit(limit["hard"]))
                for limit in words["rlimits"]
            ],
            "capabilities": {name: capabilities.to_mask(held.get(name, ())) for name in names},
        }
