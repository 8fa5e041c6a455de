"""The maker of a slot: makes one container after another in one user namespace, without forking.

It is a fork of the launcher that joined the user namespace of its slot, in which it holds all
capabilities and outside of which none; in a nest it joined the nest's pid namespace before, since
who makes a pid namespace below another must be in that. Each container is made by a thread of its
own that ends with it: namespaces, identity, working directory, filter and, on cgroup v1, groups are
each thread's own on Linux, so with the thread everything is let go, and the maker is as it was. On
v2, where threads can't leave their process, it goes back to its groups by itself.

Pid 1 of the container is no Python but a page of machine code (`linux.first_process`). What else a
pid 1 does is done here: the thread lays out the root file system, becomes what the first program
shall be and starts it; the maker reaps that. For one more process in the container there is an
*agent* (see `agent`). So a container costs no copy of a Python's memory.

A maker is not dumpable. The template sees in the nest that makers are there, and no more.

Requests (`do`): make (a container of a recipe, and its first program if there is one), agent,
keeper (a container that a runtime of others makes, see `keeper`), network (a network namespace for
the next container, which is connected before that is made). Answers: network (with the namespace),
made (with `kinds`, and the descriptors: writable layer, pid 1, the program, namespaces; or with
`failure`: the program could not be started), failed, exited, ended (why, of a maker that fails).
"""

from __future__ import annotations

import _thread
import base64
import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import select
import signal
import socket
import stat
import sys

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import (
    first_process,
    interfaces,
    libc,
    messages,
    mounts,
    processes,
    user_namespaces,
)
from sandbox_kernel.linux.multicall import Calls
from sandbox_kernel.runtime import agent, becoming, keeper, machine, payload, rootfs, sentry
from sandbox_kernel.runtime.cgroups import files
from sandbox_kernel.runtime.rootfs import told
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, NoReturn

    from sandbox_kernel.linux.multicall import Cell

MOST_RECIPES = 16
MOST_PLANS = 4
"""Each is some 100 KiB."""
MANY = 16
"""After so many makers of one recipe, the launcher has its plan for those that come."""
M_ARENA_MAX = -8  # malloc.h of the C library
RECIPE = (
    "config", "entries", "trees", "layers", "storage_size", "flags", "kinds", "cgroup_namespace",
    "network_namespace", "files",
)  # fmt: skip
"""What of an order a maker needs, beside `program`, `hostname` and `process`."""
KEPT = (
    "id", "hostname", "wall", "config", "entries", "trees", "layers", "storage_size", "files"
)  # fmt: skip
"""What of an order a keeper needs, beside `program`."""
KEEPERS = {
    "runc": keeper.Keeper,
    "crun": keeper.Keeper,
    "runsc": sentry.Sentry,
    "vm": machine.Machine,
}
# What Python and the launcher handle or ignore, and what whoever started us ignores: a program
# would ignore it too.
HANDLED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Maker:
    """The launcher's side: a maker that waits for requests."""

    def __init__(self, channel: socket.socket, pidfd: int, pid: int) -> None:
        self.channel = channel
        self.pid = pid
        self.why = "the maker of it ended"
        """Of a container that ends when this one does."""
        self._pidfd = pidfd
        self._recipes: list[str] = []

    def make(
        self,
        order: Mapping[str, Any],
        trees: Mapping[str, int],
        entrances: list[int],
        around: list[int],
        life: int,
        numbers: Mapping[int, int],
        network: int | None = None,
    ) -> None:
        """Ask for a container; the answer comes over `channel`. Raises OSError.

        `entrances` and `around` are those of its group (see `cgroups.contract`). Pid 1 lives as
        long as somebody holds the other end of `life`. `numbers` are the descriptors of the first
        program, if `order` has one: number inside to ours. `network` is what `make_network`
        answered.
        """
        message = {
            "do": "make",
            "container": order["id"],
            "recipe": order["recipe"],
            "hostname": order["hostname"],
            "process": order.get("process"),
            "wants_namespaces": bool(order.get("wants_namespaces")),
            "trees": list(trees),
            "numbers": list(numbers),
            "around": len(around),
            "connected": network is not None,
        }
        if order["recipe"] not in self._recipes:
            message["new"] = {name: order.get(name) for name in RECIPE} | {
                "program": encoded(order["program"])
            }
            self._recipes = [*self._recipes[1 - MOST_RECIPES :], order["recipe"]]
        connected = [] if network is None else [network]
        given = [life, *connected, *trees.values(), *numbers.values(), *around, *entrances]
        messages.send(self.channel, message, given)
        if "new" in message and _is_told_to_many(order["recipe"]):
            # Makers that are forked later have it then, and share its memory. What there is against
            # it, this one says.
            with contextlib.suppress(StepFailed):
                _plan_of(
                    order["recipe"], order, trees, len(around), len(entrances),
                    connected=network is not None,
                )  # fmt: skip

    def make_network(self, container: str) -> None:
        """Ask for a network namespace that belongs to the slot; it comes over `channel`."""
        messages.send(self.channel, {"do": "network", "container": container})

    def start_agent(
        self,
        program: bytes | None,
        channel: socket.socket,
        namespaces: Mapping[str, int],
        entrances: list[int],
        *,
        adopts: bool,
    ) -> None:
        """Have further runs of a container forked and reaped (see `agent`). Raises OSError."""
        message = {
            "do": "agent",
            "flags": [processes.FLAG_OF_NAMESPACE[kind] for kind in namespaces],
            "program": encoded(program),
            "adopts": adopts,
        }
        given = [channel.fileno(), *namespaces.values(), *entrances]
        messages.send(self.channel, message, given)

    def start_keeper(
        self,
        order: Mapping[str, Any],
        channel: socket.socket,
        trees: Mapping[str, int],
        entrances: list[int],
        life: int,
        network: int | None = None,
    ) -> None:
        """Have a runtime of others make a container; the answer comes over the other end of
        `channel`. Else as `make`. Raises OSError."""
        message = {
            "do": "keeper",
            "order": {name: order.get(name) for name in KEPT}
            | {"program": encoded(order["program"])},
            "trees": list(trees),
            "connected": network is not None,
        }
        connected = [] if network is None else [network]
        given = [channel.fileno(), life, *connected, *trees.values(), *entrances]
        messages.send(self.channel, message, given)

    def close(self) -> None:
        """End it, and reap it: the pid namespace that it is in can't end before."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            processes.send_signal(self._pidfd, signal.SIGKILL)
        processes.wait_ended(self._pidfd)
        processes.reap(self._pidfd)
        os.close(self._pidfd)


def start_in_new_namespace(write_maps: Callable[[int], None], home: list[int]) -> tuple[Maker, int]:
    """A maker in a new user namespace, and a descriptor of that. Closes `home`.

    `write_maps` gives the namespace of a process its ids. Raises OSError.
    """
    channel, theirs = messages.pair()
    try:
        with theirs:
            try:
                pid, pidfd = processes.clone(processes.CLONE_NEWUSER)
            except OSError as error:
                raise user_namespaces.refused(error) from error
            if pid == 0:
                _be_maker(theirs, None, home)
        maker = Maker(channel, pidfd, pid)
    except BaseException:
        channel.close()
        raise
    finally:
        for descriptor in home:
            os.close(descriptor)
    try:
        write_maps(pid)
        user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        messages.send(channel, {"do": "go"})
    except BaseException:
        maker.close()
        raise
    return maker, user


def start(
    user: int, pid_namespace: int | None, home: list[int], hidden: str, network: int | None = None
) -> Maker:
    """A maker in a user namespace that is there, in a nest in its pid namespace. Closes `home`.

    All are descriptors but `hidden`, a folder whose mounts it does not have. With `network`,
    outside of a nest, it is in that network namespace, which belongs to another slot: so it has to
    enter that before it enters its own. Raises StepFailed, OSError.
    """
    channel, theirs = messages.pair()
    try:
        with theirs:
            if pid_namespace is None:
                pid, pidfd = processes.clone(0)
                if pid == 0:
                    _be_maker(theirs, user, home, network, lambda: _hide(hidden))
                return Maker(channel, pidfd, pid)
            helper = os.fork()
            if helper == 0:
                _become_maker(theirs, user, pid_namespace, home)
        received = messages.receive(channel)
        os.waitpid(helper, 0)
        if received is None or not received[1]:
            why = received[0].get("why") if received else "it ended at once"
            raise StepFailed("start", "a maker of containers", str(why))
        (pidfd,) = received[1]
        return Maker(channel, pidfd, processes.pid_of(pidfd))
    except BaseException:
        channel.close()
        raise
    finally:
        for descriptor in home:
            os.close(descriptor)


def encoded(program: bytes | None) -> str | None:
    """A seccomp program as text; None: there is none."""
    return None if program is None else base64.b64encode(program).decode()


def decoded(program: str | None) -> bytes | None:
    """What `encoded` made a text of."""
    return None if program is None else base64.b64decode(program)


def _become_maker(
    channel: socket.socket, user: int, pid_namespace: int, home: list[int]
) -> NoReturn:
    """In a fork of the launcher: a sibling of it, in the nest's pid namespace, is the maker."""
    try:
        processes.setns(pid_namespace, processes.CLONE_NEWPID)
        processes.prctl(processes.PR_SET_DUMPABLE, 0)
        maker, pidfd = processes.clone_sibling(0)
        if maker == 0:
            _be_maker(channel, user, home, leave=_leave)
        messages.send(channel, {}, [pidfd])
    except BaseException as error:
        messages.send(channel, {"why": repr(error)})
    os._exit(0)


def _be_maker(
    channel: socket.socket,
    user: int | None,
    home: list[int],
    network: int | None = None,
    leave: Callable[[], None] | None = None,
) -> NoReturn:
    """Make what is asked for, until the launcher lets go.

    `leave` makes a mount namespace with fewer mounts: a container begins with a copy of all of its
    maker's, and each costs as much as a few system calls until the kernel has freed it again.
    """
    try:
        gc.disable()
        sys.meta_path.clear()  # an import in a thread of ours would run the image's code
        # Above the numbers that pid 1 has for others when it is executed.
        program = fcntl.fcntl(first_process.program(), fcntl.F_DUPFD_CLOEXEC, 16)
        if network is not None:
            processes.setns(network, processes.CLONE_NEWNET)
        if leave is not None:
            leave()
        others = () if user is None else (user,)
        processes.close_all_but((channel.fileno(), program, *home, *others))
        processes.set_name("sandbox-maker")
        processes.set_command_line("sandbox-maker")
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        if user is not None:
            processes.setns(user, processes.CLONE_NEWUSER)
            os.close(user)
        elif messages.receive(channel) is None:
            os._exit(0)  # the namespace, which is new, got no ids
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        # A change of identity clears the parent-death signal and may set dumpable again.
        processes.prctl(processes.PR_SET_DUMPABLE, 0)
        processes.end_with_parent()
        becoming.may_set_groups()
        # A thread's own heap would be made and dropped with each container.
        libc.libc.mallopt(ctypes.c_int(M_ARENA_MAX), ctypes.c_int(1))
        _Loop(channel, program, home).serve()
    except BaseException as error:
        with contextlib.suppress(OSError):
            messages.send(channel, {"ended": repr(error)[:500]})
    finally:
        os._exit(0)


def _hide(folder: str) -> None:
    """Have no mounts there, in a namespace of our own. Raises OSError."""
    processes.unshare(processes.CLONE_NEWNS)
    try:
        mounts.detach(folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise  # else somebody removed the folder by hand, and the mounts with it


def _leave() -> None:
    """Have next to no mounts, in a namespace of our own. Raises OSError.

    What is left are the host's proc and sysfs, which have to be seen by whoever mounts others
    (`mount_too_revealing` of fs/namespace.c), and a place for the root of a container.
    """
    processes.unshare(processes.CLONE_NEWNS)
    root = mounts.new_filesystem("tmpfs", (("mode", "0755"), ("size", "64k")), 0)
    stage = os.open(rootfs.STAGE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.place(root, stage)
    for path in ("/proc", "/sys", rootfs.STAGE):
        os.mkdir(path[1:], 0o755, dir_fd=root)
    for path in ("/proc", "/sys"):
        place = os.open(path[1:], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        mounts.place(_copy_of(path), place)
    os.fchdir(root)
    mounts.change_root_here()


def _copy_of(path: str) -> int:
    """Of the mount there, and of those below it only where they can't be told apart from it."""
    try:
        return mounts.clone_tree(mounts.AT_FDCWD, path, recursive=False)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a user namespace above: what they cover stays covered
            raise
        return mounts.clone_tree(mounts.AT_FDCWD, path)


class _Loop:
    """What the maker itself does, while no thread of it makes a container."""

    def __init__(self, channel: socket.socket, program: int, home: list[int]) -> None:
        self._channel = channel
        self._program = program
        self._home = home
        self._recipes: dict[str, dict[str, Any]] = {}
        self._children = processes.child_signal_descriptor()
        self._first: tuple[int, str, int] | None = None
        """The first program of the container that is there: its pid, the container, its report."""

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._children, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._children in ready:
                os.read(self._children, 4096)
                self._reap()
            if self._channel.fileno() in ready:
                received = messages.receive(self._channel)
                if received is None:
                    return
                message, given = received
                if message["do"] == "agent":
                    _fork_agent(message, given)
                elif message["do"] == "keeper":
                    _fork_keeper(message, given)
                elif message["do"] == "network":
                    self._make_network(message["container"])
                else:
                    self._make(message, given)
                # What came with it, and what a failure left open.
                processes.close_all_but(self._own())

    def _own(self) -> tuple[int, ...]:
        report = self._first[2] if self._first else -1
        kept = (self._channel.fileno(), self._program, self._children, *self._home)
        return (*kept, report) if report >= 0 else kept

    def _reap(self) -> None:
        while True:
            try:
                pid, state = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._first and self._first[0] == pid:
                _, container, report = self._first
                self._first = None
                said = agent.how_it_ended(state, report)
                messages.send(self._channel, {"exited": container, **said})

    def _make_network(self, container: str) -> None:
        made: list[int] = []
        failures: list[BaseException] = []

        def work(over: Any) -> None:
            try:
                with step("make", "a network namespace"):
                    processes.unshare(processes.CLONE_NEWNET)
                    interfaces.switch_on_loopback()
                    made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            except BaseException as error:
                failures.append(error)
            finally:
                over.release()

        _in_a_thread(work)
        if failures:
            answer = {"failed": container, **told(failures[0], container)}
        else:
            answer = {"network": container}
        messages.send(self._channel, answer, made)

    def _make(self, message: dict[str, Any], given: list[int]) -> None:
        if "new" in message:
            while len(self._recipes) >= MOST_RECIPES:
                del self._recipes[next(iter(self._recipes))]
            self._recipes[message["recipe"]] = message["new"]
        recipe = self._recipes[message["recipe"]]
        network = given.pop(1) if message["connected"] else None
        names, count = message["trees"], 1 + len(message["trees"])
        beyond = count + len(message["numbers"])
        inner = beyond + message["around"]
        trees = dict(zip(names, given[1:count], strict=True))
        entrances = given[inner:]
        making = _Making(
            {**recipe, **{name: message[name] for name in ("hostname", "process")}},
            life=given[0],
            trees=trees,
            numbers=dict(zip(message["numbers"], given[count:beyond], strict=True)),
            around=given[beyond:inner],
            entrances=entrances,
            program=self._program,
            network=network,
            plan=lambda: _plan_of(
                message["recipe"],
                recipe,
                trees,
                message["around"],
                len(entrances),
                connected=message["connected"],
            ),
        )
        _in_a_thread(making.work)
        # Before the answer: all that is in the container's group then is ended with it.
        for entrance in self._home:
            os.write(entrance, b"0")
        name = message["container"]
        if making.error is not None:
            self._first = None
            messages.send(self._channel, {"failed": name, **told(making.error, name)})
            return
        said: dict[str, Any] = {"made": name, "leader": False, "kinds": []}
        descriptors = [making.writable, making.first]
        if making.failure is not None:
            said["failure"] = told(making.failure, name)
            said["status"] = payload.status_of(said["failure"]["errno"])
        elif making.pid > 0:
            self._first = (making.pid, name, making.report)
            descriptors.append(processes.pidfd_open(making.pid))
            said["leader"] = True
        if message["wants_namespaces"]:
            said["kinds"] = list(making.namespaces)
            descriptors += making.namespaces.values()
        messages.send(self._channel, said, descriptors)


def _in_a_thread(work: Callable[[Any], None]) -> None:
    """Have a thread do it, and wait until it releases the lock that it is given."""
    over = _thread.allocate_lock()
    over.acquire()
    _thread.start_new_thread(work, (over,))
    over.acquire()


class _Plan:
    """The calls that make a container of a recipe, before there is a pid 1 and after."""

    def __init__(
        self,
        recipe: Mapping[str, Any],
        trees: Collection[str],
        folders: Collection[str],
        around: int,
        entrances: int,
        *,
        connected: bool,
    ) -> None:
        self.before = calls = Calls()
        self._around = [calls.given() for _ in range(around)]
        self._entrances = [calls.given() for _ in range(entrances)]
        self._network = calls.given() if connected else None
        flags = recipe["flags"] & ~processes.CLONE_NEWUSER
        # The group that this thread is in then is the root of groups that is seen.
        groups = processes.CLONE_NEWCGROUP if recipe["cgroup_namespace"] else 0
        with calls.step("enter", "the cgroup"):
            if self._around:
                files.enter_by(calls, self._around)
                calls.call("unshare", groups)
                groups = 0
            files.enter_by(calls, self._entrances)
        # Of this thread; looked up while /proc is still the host's.
        with calls.step("open", "namespaces"):
            opening = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            self.own = calls.call("openat", mounts.AT_FDCWD, b"/proc/thread-self/ns", opening)
        flags |= groups
        if self._network is not None:
            with calls.step("enter", "the network namespace"):
                calls.call("setns", self._network, processes.CLONE_NEWNET)
            flags &= ~processes.CLONE_NEWNET
        with calls.step("unshare", "namespaces"):
            calls.call("unshare", flags)
        if recipe["network_namespace"] and not connected:
            with calls.step("bring up", "lo"):
                interfaces.switch_on_loopback_by(calls)
        self.layout = rootfs.Layout(recipe, trees, folders, calls)
        self.after = calls = self.layout.then
        self._own_after = calls.given()
        with calls.step("open", "namespaces"):
            opening = os.O_RDONLY | os.O_CLOEXEC
            self.kinds = {
                kind: calls.call("openat", self._own_after, FILE_OF[kind].encode(), opening)
                for kind in recipe["kinds"]
            }

    def given_before(
        self,
        trees: Mapping[str, int],
        around: list[int],
        entrances: list[int],
        network: int | None,
    ) -> dict[Cell, int]:
        """What the calls before pid 1 are given."""
        cells = {self.layout.trees[name][0]: tree for name, tree in trees.items()}
        cells.update(zip(self._around, around, strict=True))
        cells.update(zip(self._entrances, entrances, strict=True))
        if self._network is not None and network is not None:
            cells[self._network] = network
        return cells

    def given_after(self, trees: Mapping[str, int]) -> dict[Cell, int]:
        """What those after it are given: of the results of those before, too."""
        found, layout = self.before.result, self.layout
        cells = {layout.trees[name][1]: tree for name, tree in trees.items()}
        return {
            **cells,
            self._own_after: found(self.own),
            layout.root_then: found(layout.root),
            layout.place_then: found(layout.place),
        }


def _is_told_to_many(recipe: str) -> bool:
    """Whether so many makers have been told of it that there will be more."""
    while len(_told) >= MOST_RECIPES:
        del _told[next(iter(_told))]
    _told[recipe] = _told.pop(recipe, 0) + 1
    return _told[recipe] >= MANY


_told: dict[str, int] = {}
_plans: dict[tuple[Any, ...], _Plan] = {}
"""Those of the launcher when a maker was forked, and its own."""


def _plan_of(
    name: str,
    recipe: Mapping[str, Any],
    trees: Mapping[str, int],
    around: int,
    entrances: int,
    *,
    connected: bool,
) -> _Plan:
    """The calls for a container, which are those of others of its recipe. Raises StepFailed."""
    folders = frozenset(
        tree
        for tree, descriptor in trees.items()
        if tree.startswith("mount ") and stat.S_ISDIR(os.fstat(descriptor).st_mode)
    )
    key = (name, *trees, folders, around, entrances, connected)
    plan = _plans.pop(key, None)
    if plan is None:
        while len(_plans) >= MOST_PLANS:
            del _plans[next(iter(_plans))]
        plan = _Plan(recipe, list(trees), folders, around, entrances, connected=connected)
    _plans[key] = plan  # the last that was used is the last that is dropped
    return plan


class _Making:
    """One container on its way; `work` is a thread's, and what it found is read after its end."""

    def __init__(
        self,
        order: Mapping[str, Any],
        *,
        life: int,
        trees: Mapping[str, int],
        numbers: Mapping[int, int],
        around: list[int],
        entrances: list[int],
        program: int,
        network: int | None,
        plan: Callable[[], _Plan],
    ) -> None:
        self._around = around
        self._network = network
        self._order = order
        self._plan = plan
        self._life = life
        self._trees = trees
        self._numbers = numbers
        self._entrances = entrances
        self._program = program
        self.error: BaseException | None = None
        """Why there is no container."""
        self.failure: BaseException | None = None
        """Why its program did not start."""
        self.first = self.writable = self.report = -1
        self.pid = 0
        self.namespaces: dict[str, int] = {}

    def work(self, over: Any) -> None:
        """In a thread of its own. Raises nothing."""
        try:
            self._make()
            if self._order["process"]:
                self._start_program()
        except BaseException as error:
            self.error = error
            if self.first >= 0:
                processes.send_signal(self.first, signal.SIGKILL)
        finally:
            over.release()

    def _make(self) -> None:
        """Enter the groups, make the namespaces, lay the root file system out around pid 1."""
        plan = self._plan()
        given = plan.given_before(self._trees, self._around, self._entrances, self._network)
        plan.before.run(given)
        self.writable = plan.before.result(plan.layout.base)
        with step("set hostname", self._order["hostname"]):
            socket.sethostname(self._order["hostname"])
        with step("mount", "/proc"):
            self._start_first()
        plan.after.run(plan.given_after(self._trees))
        self.namespaces = {kind: plan.after.result(cell) for kind, cell in plan.kinds.items()}

    def _start_first(self) -> None:
        """Pid 1, which mounts proc on the working directory. Raises OSError as the mount did."""
        result, end = os.pipe2(os.O_CLOEXEC)
        # posix_spawn shares the memory until the program is executed: no page is copied.
        pid = os.posix_spawn(
            f"/proc/self/fd/{self._program}",
            ["sandbox-init"],
            {},
            file_actions=self._moves({self._life: first_process.LIFE, end: first_process.RESULT}),
        )
        self.first = processes.pidfd_open(pid)
        os.close(end)
        answer = int.from_bytes(os.read(result, 8), sys.byteorder, signed=True)
        os.close(result)
        if answer:
            raise OSError(-answer, os.strerror(-answer))

    def _moves(self, wanted: Mapping[int, int]) -> list[Any]:
        """File actions that give descriptors their numbers, which may be those of each other.

        That of the program itself stays what it is until it is executed.
        """
        above = max(*wanted, *wanted.values(), self._program) + 1
        first = [(os.POSIX_SPAWN_DUP2, ours, above + i) for i, ours in enumerate(wanted)]
        then = [(os.POSIX_SPAWN_DUP2, above + i, to) for i, to in enumerate(wanted.values())]
        return [*first, *then, *((os.POSIX_SPAWN_CLOSE, above + i) for i in range(len(wanted)))]

    def _start_program(self) -> None:
        """Become what the program shall be, and start it; a failure is the program's, not ours."""
        process = self._order["process"]
        program = decoded(self._order["program"])
        try:
            if payload.can_spawn(process):
                self.pid = payload.spawn(process, self._numbers, program)
                return
            self.report, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            with step("fork", process["args"][0]):
                pid = os.fork()
            if pid == 0:
                payload.enter(process, self._numbers, [], program, report)
            self.pid = pid
        except Exception as error:  # the descriptors of this thread may be the program's by now
            self.failure = error


# namespaces(7): those that a thread gave its children and is not in itself have other names.
FILE_OF = processes.FILE_OF_NAMESPACE | {
    "pid": "pid_for_children", "time": "time_for_children"
}  # fmt: skip


def _fork_keeper(message: dict[str, Any], given: list[int]) -> None:
    """It outlives the maker, whom nobody in the container needs, and ends with the launcher."""
    if os.fork():
        return
    try:
        channel, life, *rest = given
        network = rest.pop(0) if message["connected"] else None
        count = len(message["trees"])
        order = message["order"]
        keeper.serve(
            socket.socket(fileno=channel),
            {**order, "program": decoded(order["program"])},
            kind=KEEPERS[order["wall"]["name"]],
            trees=dict(zip(message["trees"], rest[:count], strict=True)),
            entrances=rest[count:],
            life=life,
            network=network,
        )
    finally:
        os._exit(0)


def _fork_agent(message: dict[str, Any], given: list[int]) -> None:
    """An agent of a container that is there: it joins, and its children are born there.

    It stays outside of the pid namespace, so nothing in it sees the agent. One that `adopts` has to
    be inside, as orphans are not given to anybody outside.
    """
    if os.fork():
        return
    try:
        count = 1 + len(message["flags"])
        channel = socket.socket(fileno=given[0])
        for flag, namespace in zip(message["flags"], given[1:count], strict=True):
            if flag != processes.CLONE_NEWUSER:  # in which the maker is
                processes.setns(namespace, flag)
        # Of the maker too, who reaps it.
        if message["adopts"] and processes.clone_sibling(0)[0]:
            os._exit(0)
        files.enter(given[count:])
        processes.close_all_but((channel.fileno(),))
        agent.serve(channel, decoded(message["program"]), adopts=message["adopts"])
    finally:
        os._exit(1)
