"""The maker of a slot: makes one container after another in one user namespace, without forking.

It is a fork of the launcher that joined the nest's pid namespace, since who makes a pid namespace
below another must be in that, and then the user namespace of its slot, in which it holds all
capabilities and outside of which none. Each container is made by a thread of its own that ends
with it: namespaces, working directory and, on cgroup v1, groups are each thread's own on Linux, so
with the thread everything is let go, and the maker is as it was. On v2, where threads can't leave
their process, it goes back to its groups by itself.

Pid 1 of the container is no Python but a page of machine code (`linux.first_process`): what a pid 1
has to do otherwise is done by the thread before, and by an *agent*, when somebody wants one more
process in the container. That spares two forks of a Python for each container.

The template sees in the nest that makers are there, and no more: they are not dumpable and hold
what it does not.

Requests (`do`): make (a container of a recipe), agent (pid 1's duties for further runs).
Answers: made (with `kinds`, and the descriptors: writable layer, pid 1, namespaces), failed.
"""

from __future__ import annotations

import _thread
import base64
import ctypes
import gc
import os
import signal
import socket
import sys

from sandbox_kernel.errors import SandboxError, StepFailed
from sandbox_kernel.linux import first_process, interfaces, libc, messages, processes
from sandbox_kernel.runtime import rootfs
from sandbox_kernel.runtime.cgroups import files
from sandbox_kernel.runtime.init import be_agent
from sandbox_kernel.runtime.rootfs import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MOST_RECIPES = 16
M_ARENA_MAX = -8  # malloc.h of the C library
RECIPE = (
    "config", "entries", "trees", "layers", "storage_size", "flags", "kinds", "cgroup_namespace",
    "network_namespace",
)  # fmt: skip
"""What of an order a maker needs, beside `program` and `hostname`."""


class Maker:
    """The launcher's side: a maker that waits for requests."""

    def __init__(self, user: int, pid_namespace: int, home: list[int]) -> None:
        """`user` and `pid_namespace` are descriptors. Closes `home`. Raises StepFailed, OSError."""
        self.channel, theirs = _pair()
        self._recipes: list[str] = []
        with theirs:
            try:
                helper = os.fork()
                if helper == 0:
                    _become_maker(theirs, user, pid_namespace, home)
            except BaseException:
                self.channel.close()
                raise
            finally:
                for descriptor in home:
                    os.close(descriptor)
        try:
            received = messages.receive(self.channel)
            os.waitpid(helper, 0)
            if received is None or "maker" not in received[0]:
                why = received[0].get("why") if received else "it ended at once"
                raise StepFailed("start", "a maker of containers", str(why))
            self._pidfd = os.pidfd_open(received[0]["maker"])
        except BaseException:
            self.channel.close()
            raise

    def make(
        self, container: str, order: dict[str, Any], trees: dict[str, int], entrances: list[int]
    ) -> None:
        """Ask for a container; the answer comes over `channel`. Raises OSError."""
        message = {
            "do": "make",
            "container": container,
            "recipe": order["recipe"],
            "hostname": order["hostname"],
            "trees": list(trees),
        }
        if order["recipe"] not in self._recipes:
            message["new"] = {name: order[name] for name in RECIPE} | {
                "program": base64.b64encode(order["program"]).decode()
            }
            self._recipes = [*self._recipes[1 - MOST_RECIPES :], order["recipe"]]
        messages.send(self.channel, message, [*trees.values(), *entrances])

    def start_agent(
        self,
        program: bytes,
        channel: socket.socket,
        namespaces: dict[str, int],
        entrances: list[int],
    ) -> None:
        """Have pid 1's duties done in a container, for who holds the other end. Raises OSError."""
        message = {
            "do": "agent",
            "kinds": list(namespaces),
            "program": base64.b64encode(program).decode(),
        }
        given = [channel.fileno(), *namespaces.values(), *entrances]
        messages.send(self.channel, message, given)

    def close(self) -> None:
        """Let it end, and reap it: the nest's pid 1 can't end before."""
        self.channel.close()
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)


def _become_maker(
    channel: socket.socket, user: int, pid_namespace: int, home: list[int]
) -> NoReturn:
    """In a fork of the launcher: a sibling of it, in the nest's pid namespace, is the maker."""
    try:
        processes.setns(pid_namespace, processes.CLONE_NEWPID)
        processes.prctl(processes.PR_SET_DUMPABLE, 0)
        maker, _ = processes.clone_sibling(0)
        if maker == 0:
            _be_maker(channel, user, home)
        messages.send(channel, {"maker": maker})
    except BaseException as error:
        messages.send(channel, {"why": repr(error)})
    os._exit(0)


def _be_maker(channel: socket.socket, user: int, home: list[int]) -> NoReturn:
    """Make what is asked for, until the launcher lets go."""
    try:
        gc.disable()
        sys.meta_path.clear()  # an import in a thread of ours would run the image's code
        program = first_process.program()
        processes.close_all_but((channel.fileno(), user, program, *home))
        processes.set_name("sandbox-maker")
        processes.set_command_line("sandbox-maker")
        processes.setns(user, processes.CLONE_NEWUSER)
        os.close(user)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        processes.prctl(processes.PR_SET_DUMPABLE, 0)
        processes.end_with_parent()
        # A thread's own heap would be made and dropped with each container.
        libc.libc.mallopt(ctypes.c_int(M_ARENA_MAX), ctypes.c_int(1))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as each pid 1 is to have it
        recipes: dict[str, dict[str, Any]] = {}
        own = (channel.fileno(), program, *home)
        while received := messages.receive(channel):
            message, given = received
            if message["do"] == "agent":
                _fork_agent(message, given)
            else:
                _answer(channel, message, given, recipes, program)
                for entrance in home:
                    os.write(entrance, b"0")
            processes.close_all_but(own)  # what came with it, and what a failure left open
    finally:
        os._exit(0)


def _answer(
    channel: socket.socket,
    message: dict[str, Any],
    given: list[int],
    recipes: dict[str, dict[str, Any]],
    program: int,
) -> None:
    """Make one container, in a thread, and say how it went."""
    if "new" in message:
        while len(recipes) >= MOST_RECIPES:
            del recipes[next(iter(recipes))]
        recipes[message["recipe"]] = message["new"]
    order = {**recipes[message["recipe"]], "hostname": message["hostname"]}
    count = len(message["trees"])
    trees = dict(zip(message["trees"], given, strict=False))
    entrances = given[count:]
    made: list[tuple[int, int, dict[str, int]] | BaseException] = []
    over = _thread.allocate_lock()
    over.acquire()

    def work() -> None:
        try:
            made.append(_make(order, trees, entrances, program))
        except BaseException as error:  # for the thread that waits
            made.append(error)
        finally:
            over.release()

    _thread.start_new_thread(work, ())
    over.acquire()
    (result,) = made
    if isinstance(result, tuple):
        writable, pidfd, namespaces = result
        said = {"made": message["container"], "kinds": list(namespaces)}
        messages.send(channel, said, [writable, pidfd, *namespaces.values()])
        return
    error = result if isinstance(result, SandboxError) else StepFailed("make", "it", repr(result))
    step_of = {"step": "make", "subject": message["container"], "why": str(error), "errno": 0}
    if isinstance(error, StepFailed):
        step_of = {name: getattr(error, name) for name in ("step", "subject", "why", "errno")}
    messages.send(channel, {"failed": message["container"], **step_of})


def _make(
    order: dict[str, Any], trees: dict[str, int], entrances: list[int], program: int
) -> tuple[int, int, dict[str, int]]:
    """Enter the groups, make the namespaces, lay the root file system out around pid 1.

    Returns the writable layer, a pidfd of pid 1 and the namespaces.
    """
    with step("enter", "the cgroup"):
        files.enter(entrances)
    # Of this thread; looked up while /proc is still the host's.
    own = os.open("/proc/thread-self/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = order["flags"] & ~processes.CLONE_NEWUSER
    with step("unshare", "namespaces"):
        # That of the groups now, so that the container's group is the root that is seen.
        processes.unshare(flags | (processes.CLONE_NEWCGROUP if order["cgroup_namespace"] else 0))
    with step("set hostname", order["hostname"]):
        socket.sethostname(order["hostname"])
    if order["network_namespace"]:
        with step("bring up", "lo"):
            interfaces.switch_on_loopback()
    first: list[int] = []
    try:
        writable = rootfs.lay_out(order, trees, lambda place: first.append(_start(program, place)))
        with step("open", "namespaces"):
            namespaces = {
                kind: os.open(_FILE_OF.get(kind, kind), os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
                for kind in order["kinds"]
            }
    except BaseException:
        for pidfd in first:
            processes.send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        raise
    finally:
        os.close(own)
    return writable, first[0], namespaces


# namespaces(7): those that a thread gave its children and is not in itself have other names.
_FILE_OF = {
    "mount": "mnt", "network": "net", "pid": "pid_for_children", "time": "time_for_children"
}  # fmt: skip


def _start(program: int, place: int) -> int:
    """Pid 1, which mounts proc on a place. Returns a pidfd. Raises OSError as the mount did."""
    os.fchdir(place)
    result, end = os.pipe2(os.O_CLOEXEC)
    try:
        # posix_spawn shares the memory until the program is executed: no page is copied.
        pid = os.posix_spawn(
            f"/proc/self/fd/{program}",
            ["sandbox-init"],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, end, first_process.RESULT)],
        )
        pidfd = processes.pidfd_open(pid)
        os.close(end)
        end = -1
        answer = int.from_bytes(os.read(result, 8), sys.byteorder, signed=True)
    finally:
        os.close(result)
        if end >= 0:
            os.close(end)
    if answer:
        processes.send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        raise OSError(-answer, os.strerror(-answer))
    return pidfd


def _fork_agent(message: dict[str, Any], given: list[int]) -> None:
    """An agent in a container that is there: it joins, and does what a pid 1 does for runs."""
    if os.fork():
        return
    try:
        count = 1 + len(message["kinds"])
        channel = socket.socket(fileno=given[0])
        for kind, namespace in zip(message["kinds"], given[1:count], strict=True):
            if kind != "user":  # in which the maker is
                processes.setns(namespace, processes.FLAG_OF_NAMESPACE[kind])
        if os.fork():
            os._exit(0)  # the pid namespace is its child's, whom the nest's pid 1 inherits
        files.enter(given[count:])
        processes.set_name("sandbox-agent")
        processes.close_all_but((channel.fileno(),))
        be_agent(channel, base64.b64decode(message["program"]))
    finally:
        os._exit(1)


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
