"""One held container as the launcher knows it: making it, starting runs in it, ending it.

Making one, in this order, and why:

    slot            a user namespace whose ids are nobody else's, and a maker in it
    cgroup          made and its limits read back: nothing of the container ever runs without them
    open trees      what the container gets of the host is opened by descriptor, by names that may
                    hold no link
    make            the maker gets all of it; a thread of it enters the cgroup first, makes the
                    namespaces and pid 1, lays out the root file system and starts the program
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import time

from sandbox_kernel.errors import HostLacks, StepFailed
from sandbox_kernel.linux import messages, mounts, paths, processes, writing
from sandbox_kernel.linux.multicall import Calls
from sandbox_kernel.runtime import cells, identities, rootfs
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from sandbox_kernel.runtime.cgroups.contract import Driver, Group
    from sandbox_kernel.runtime.feed import Feed
    from sandbox_kernel.runtime.slots import Slot, Slots


class Sources:
    """What containers of a launcher get of the host: device nodes, masks, trees of images.

    They stand in the launcher's own mount namespace, each made once.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        # On top of a folder of ours; no other process sees these mounts.
        mounts.mount("sandbox", folder, "tmpfs", 0, "mode=0755,size=1m")
        os.mkdir(f"{folder}/dev", 0o755)
        os.mkdir(f"{folder}/empty", 0o555)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(f"{folder}/dev/{name}", 0o755)
        for name, target in (
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ):
            os.symlink(target, f"{folder}/dev/{name}")
        for name in DEVICES:
            self._make_device(name, f"{folder}/dev/{name}")
        self.dev = self._read_only(f"{folder}/dev")
        self.empty = self._read_only(f"{folder}/empty")
        self.null = os.open(f"{folder}/dev/null", os.O_PATH | os.O_CLOEXEC)
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._trees: dict[tuple[object, ...], int] = {}
        self._seen: dict[tuple[object, ...], tuple[float, tuple[object, ...]]] = {}
        """When the sources of a tree were looked at (monotonic), and what they were."""

    def tree(self, order: Mapping[str, Any], seconds: float = 0) -> int:
        """A detached copy of an image's read-only tree, which is put together the first time.

        What was replaced on the host since then, or changed where it is a copy, is there anew, if
        that was more than `seconds` ago.
        """
        key = self._key((order["key"],), order["mounts"], seconds, _state_of)
        if key not in self._trees:
            self._trees[key] = self._put_together(order, f"tree{len(self._trees)}")
        return mounts.clone_tree(self._trees[key])

    def _key(
        self,
        name: tuple[object, ...],
        sources: Sequence[Mapping[str, Any]],
        seconds: float,
        state: Callable[[Mapping[str, Any]], tuple[int, ...]],
    ) -> tuple[object, ...]:
        now = time.monotonic()
        seen = self._seen.get(name)
        if seen is None or now - seen[0] >= seconds:
            seen = self._seen[name] = now, (*name, *map(state, sources))
        return seen[1]

    def bind(self, mount: Mapping[str, Any], seconds: float = 0) -> int:
        """A detached copy of a read-only part of the host that many containers get; see `tree`."""
        key = self._key((mount["source"], *mount["options"]), (mount,), seconds, _file_of)
        if key not in self._trees:
            tree = _tree(mount["source"], _attributes(mount))
            kept = os.dup(tree)
            try:
                name = f"tree{len(self._trees)}"
                directory = stat.S_ISDIR(os.fstat(tree).st_mode)
                rootfs.put_now(self._folder, name, tree, directory=directory)
            except BaseException:
                os.close(kept)
                raise
            self._trees[key] = kept
        return mounts.clone_tree(self._trees[key])

    def file(self, text: str) -> int:
        """A detached copy of a read-only file of ours."""
        key = ("file", text)
        if key not in self._trees:
            name = f"file{len(self._trees)}"
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            made = os.open(name, flags, 0o644, dir_fd=self._folder)
            try:
                writing.whole(made, text.encode())
            finally:
                os.close(made)
            place = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                self._trees[key] = mounts.clone_tree(place, recursive=False)
            finally:
                os.close(place)
            mounts.set_attributes(
                self._trees[key],
                mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV,
            )
        return mounts.clone_tree(self._trees[key])

    def _put_together(self, order: Mapping[str, Any], name: str) -> int:
        """Mounts cover mounts: what half a tree was made of is covered by the next try."""
        base = mounts.new_filesystem("tmpfs", (("mode", "0755"), ("size", TREE_SIZE)), 0)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=self._folder)
            rootfs.put_now(self._folder, name, os.dup(base), directory=True)
            below = len(order["destination"])
            calls = Calls()
            for entry in order["entries"]:
                rootfs.make_entry(calls, base, {**entry, "path": entry["path"][below:]})
            calls.run()
            for mount in order["mounts"]:
                destination = mount["destination"][below:]
                if _copied(mount["source"], base, destination):
                    continue
                tree = _tree(mount["source"], _attributes(mount))
                directory = stat.S_ISDIR(os.fstat(tree).st_mode)
                rootfs.put_now(base, destination, tree, directory=directory)
            attributes = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID
            mounts.set_attributes(base, attributes | mounts.MOUNT_ATTR_NODEV, recursive=False)
        except BaseException:
            os.close(base)
            raise
        return base

    @staticmethod
    def _make_device(name: str, target: str) -> None:
        """A node of our own where we may make one, which is no mount in each container."""
        try:
            os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(*DEVICES[name]))
        except PermissionError:
            Sources._bind_device(name, target)
        else:
            os.chmod(target, 0o666)  # noqa: S103 - whatever the umask was, as everywhere

    @staticmethod
    def _bind_device(name: str, target: str) -> None:
        node = os.open(f"/dev/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(node)
            major_minor = (os.major(found.st_rdev), os.minor(found.st_rdev))
            if not stat.S_ISCHR(found.st_mode) or major_minor != DEVICES[name]:
                raise StepFailed("check", f"/dev/{name}", "it is not the device of that name")
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
            place = os.open(target, os.O_PATH | os.O_CLOEXEC)
            tree = mounts.clone_tree(node, recursive=False)
            mounts.place(tree, place)
            os.close(tree)
            os.close(place)
        finally:
            os.close(node)

    @staticmethod
    def _read_only(path: str) -> int:
        tree = mounts.clone_tree(mounts.AT_FDCWD, path)
        try:
            mounts.set_attributes(
                tree, mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID, recursive=False
            )
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
            mounts.place(tree, target)
            os.close(target)
        finally:
            os.close(tree)
        return os.open(path, os.O_PATH | os.O_CLOEXEC)


# Documentation/admin-guide/devices.txt: name to (major, minor).
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}


MOST_COPIED = 128 << 10
"""Bytes of a file of a tree that is no mount in each container."""
TREE_SIZE = "8m"
POOLED_SECONDS = 1.0
"""What a pool makes may be that much older: most of it waits longer than that anyway."""
IMAGE_IDS = "image-ids"
"""Option of a bind mount of ours whose files have the ids of images, as layers do."""


class Run:
    """One process tree in a held container: who waits for it and what it may use."""

    __slots__ = ("client", "deadline", "group", "leader", "number", "reason", "timeout")

    def __init__(
        self, number: int, client: object, group: Group | None, timeout: float | None
    ) -> None:
        self.number = number
        self.client = client
        self.group = group
        self.timeout = timeout
        self.deadline: float | None = None
        self.reason: str | None = None
        self.leader = -1
        """A pidfd of the process that pid 1 forked for it, ours; -1 before it said so."""


class Held:
    """A container: pid 1, its namespaces, its cgroup and its writable layer."""

    def __init__(
        self,
        order: dict[str, Any],
        *,
        log: Feed,
        driver: Driver,
        launcher: str,
        sources: Sources,
        slots: Slots,
    ) -> None:
        self.id: str = order["id"]
        self.order = order
        self.runs: dict[int, Run] = {}
        # `answered` also if it could not be made: its maker is out of the group, or on its way.
        self.ready = self.answered = False
        self.reason: str | None = None
        self.limits: dict[str, Any] = {}
        """What the kernel says is in force, read while the maker was at work."""
        self.pid = self.pidfd = self.writable = self.oom_fd = -1
        """Pid 1, from `made` on."""
        self.over = self.stopping = self.ending = self.joined = self._killed = False
        self.log = log
        """What its logged processes wrote: (1 or 2, bytes)."""
        self.outputs: dict[int, int] = {}
        """Descriptors that are read into the log -> 1 or 2."""
        self.last_exit: dict[str, Any] | None = None
        self.cells: dict[int, cells.Cell] = {}
        self.agent: socket.socket | None = None
        """To its agent, when there is one."""
        self.keeper: socket.socket | None = None
        """To its keeper, when it is made by a runtime of others."""
        self._next_run = 1
        self.namespaces: dict[str, int] = {}
        """Descriptors of its namespaces, where they were asked for: see `let_namespaces_go`."""
        self.leases: list[int] = []
        """Descriptors that keep the layers of the image where they are; ours until `end`."""
        self._life = -1
        """Pid 1 lives as long as this is open."""
        self._entrances: list[int] = []
        """Of its group, for whoever comes in next."""
        self._driver, self.slots = driver, slots
        """Where its slot is one of: the launcher's, or those of a nest."""
        self._sources = sources
        self.single = bool(order.get("single"))
        self.waiting: dict[int, int] = {}
        """Descriptors of its program, while its network is connected; ours until then."""
        with step("find a place for", self.id):
            self.slot: Slot = slots.take(self.id, ranges=order.get("ranges", 1))
        try:
            slots.maker_of(self.slot)
            with step("make cgroup", f"{launcher}/{self.id}"):
                self.group: Group = self._new_group(f"{launcher}/{self.id}")
        except BaseException:
            slots.give_back(self.slot, reuse=False)
            raise
        try:
            oom = self.group.oom_fd()
            self.oom_fd = -1 if oom is None else oom
        except BaseException:
            self.end()
            raise

    def made(self, writable: int, pidfd: int, namespaces: dict[str, int]) -> None:
        """The maker of the slot has made it. Takes the descriptors."""
        self.pidfd, self.writable, self.namespaces = pidfd, writable, namespaces
        self.pid = processes.pid_of(pidfd)
        self.ready = self.answered = True
        if self.reason is not None:
            self.kill(self.reason)

    def let_namespaces_go(self) -> None:
        """Nobody enters them by us any more. That of the network stays until the end.

        Before the end, if that may be: whoever lets go of a mount namespace last waits until all
        processors have seen that its mounts are gone, which is a process of the container then.
        """
        for kind in [kind for kind in self.namespaces if self.over or kind != "network"]:
            os.close(self.namespaces.pop(kind))

    def take_network(self) -> list[int]:
        """The descriptor of its network namespace, if we have it and nobody else is in there."""
        shared = self.joined or self.order.get("network") or "network" not in self.namespaces
        return [] if shared else [self.namespaces.pop("network")]

    def join_network(self, network: int) -> None:
        """Be made in a network namespace that is there, of another container. Raises StepFailed.

        Its maker is in that one too, and of no use for others.
        """
        self.joined = True
        with step("enter", "the network of another container"):
            self.slots.join_network(self.slot, network)

    def let_go(self, descriptors: dict[int, int], network: int | None = None) -> None:
        """Tell the maker all that the container consists of. Closes the descriptors of its program.

        `network`: the namespace that the maker made for it, and that is connected. Raises
        StepFailed or HostLacks; everything made so far is taken back then by `end`.
        """
        given: list[int] = []
        walled = self.order.get("wall") is not None
        if walled:  # its program is started when it is there
            self.waiting, descriptors = descriptors, {}
        try:
            self._keep_layers()
            trees = self._open_trees(self.order["config"])
            given += trees.values()
            self._map_trees(trees)
            entrances = self.group.entrances()
            if self.order.get("pooled"):
                self._entrances = entrances
            else:
                given += entrances
            around = [] if walled else self.group.around()
            given += around
            life, self._life = os.pipe2(os.O_CLOEXEC)
            given.append(life)
            with step("ask", "the maker of the slot"):
                maker = self.slots.maker_of(self.slot)
                if walled:
                    self.keeper, theirs = messages.pair()
                    self.keeper.setblocking(False)
                    with theirs:
                        maker.start_keeper(self.order, theirs, trees, entrances, life, network)
                else:
                    maker.make(self.order, trees, entrances, around, life, descriptors, network)
        finally:
            for descriptor in (*given, *descriptors.values()):
                os.close(descriptor)
        self.limits = self.group.first_limits()

    def take_entrances(self) -> list[int]:
        """Descriptors of its group, the caller's, for one who enters it. Raises OSError."""
        kept, self._entrances = self._entrances, []
        return kept or self.group.entrances()

    def open_agent(self, *, adopts: bool = False) -> socket.socket:
        """Have somebody in it who forks runs. Raises OSError, StepFailed."""
        ours, theirs = messages.pair()
        given: list[int] = []
        try:
            with theirs, step("start", "an agent"):
                entrances = self.group.entrances()
                given += entrances
                namespaces = self._open_namespaces()
                given += namespaces.values()
                maker = self.slots.maker_of(self.slot)
                program = self.order["program"]
                maker.start_agent(program, theirs, namespaces, entrances, adopts=adopts)
        except BaseException:
            ours.close()
            raise
        finally:
            for descriptor in given:
                os.close(descriptor)
        ours.setblocking(False)
        self.agent = ours
        return ours

    def _open_namespaces(self) -> dict[str, int]:
        """Descriptors of all of them, by pid 1, which lives: else its pidfd would have said so."""
        return {
            kind: os.open(
                f"/proc/{self.pid}/ns/{processes.FILE_OF_NAMESPACE[kind]}",
                os.O_RDONLY | os.O_CLOEXEC,
            )
            for kind in self.order["kinds"]
        }

    def _keep_layers(self) -> None:
        """Lock what holds the layers, as the store does it that they are of (`image.store`)."""
        for folder in self.order.get("leases", ()):
            with step("use", folder):
                lease = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self.leases.append(lease)
                fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(lease), os.stat(folder)):
                    raise StepFailed("use", folder, "the layer was removed just now: try again")

    def _open_trees(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Detached mounts of all that the container gets."""
        trees: dict[str, int] = {}
        seconds = POOLED_SECONDS if self.order.get("pooled") else 0
        try:
            trees["dev"] = mounts.clone_tree(self._sources.dev)
            trees["null"] = mounts.clone_tree(self._sources.null, recursive=False)
            trees["empty"] = mounts.clone_tree(self._sources.empty)
            for index, layer in enumerate(self.order.get("layers", ())):
                trees[f"layer {index}"] = _tree(layer, 0)
            for index, tree in enumerate(self.order.get("trees", ())):
                trees[f"tree {index}"] = self._sources.tree(tree, seconds)
            for index, file in enumerate(self.order.get("files") or ()):
                trees[f"file {index}"] = self._sources.file(file["text"])
            for index, mount in enumerate(config.get("mounts", ())):
                if mount.get("type", "bind") != "bind":
                    continue
                trees[f"mount {index}"] = (
                    self._sources.bind(mount, seconds)
                    if self._is_shared(mount)
                    else _tree(mount["source"], _attributes(mount))
                )
        except BaseException:
            for tree in trees.values():
                os.close(tree)
            raise
        return trees

    def _is_shared(self, mount: Mapping[str, Any]) -> bool:
        """Whether it is of the image, the same for all: read-only, and with ids as they are."""
        options = mount.get("options", ())
        return "ro" in options and "idmap" not in options and IMAGE_IDS not in options

    def _map_trees(self, trees: Mapping[str, int]) -> None:
        """As root: show layers and the caller's own folders with the ids of the container."""
        if self.slot.firsts is None:
            return
        first = self.slot.firsts[0]
        mounted = self.order["config"].get("mounts", ())
        for name, tree in trees.items():
            kind, _, index = name.partition(" ")
            options = mounted[int(index)].get("options", ()) if kind == "mount" else ()
            if kind == "layer" or IMAGE_IDS in options:
                with step("map ids of", name):
                    _show_as(tree, self.slot.user)
            elif "idmap" in options:
                with step("map ids of", name):
                    owner = os.fstat(tree)
                    ids = (owner.st_uid, first, 1), (owner.st_gid, first, 1)
                    self._map(tree, identities.namespace_of(*ids))

    @staticmethod
    def _map(tree: int, namespace: int) -> None:
        try:
            _show_as(tree, namespace)
        finally:
            os.close(namespace)

    def start(
        self,
        client: object,
        process: dict[str, Any],
        numbers: dict[int, int],
        timeout: float | None,
    ) -> Run:
        """Have one more run forked, in a cgroup of its own. Closes the descriptors."""
        number = self._next_run
        self._next_run += 1
        try:
            run = Run(number, client, self.group.child(f"run-{number}"), timeout)
            self.runs[number] = run
            self._ask_for(run, process, numbers)
        finally:
            for descriptor in numbers.values():
                os.close(descriptor)
        return run

    def start_first(self) -> None:
        """The keeper has made it: have the program started that it was made for. Raises OSError."""
        numbers, self.waiting = self.waiting, {}
        try:
            self._ask_for(self.runs[0], self.order["process"], numbers)
        finally:
            for descriptor in numbers.values():
                os.close(descriptor)

    def needs_agent(self, process: Mapping[str, Any]) -> bool:
        """Whether an agent has to start such a run: most keepers can't start our own copying."""
        if self.keeper is None:
            return True
        return "transfer" in process and bool(self.order["wall"]["namespaces"])

    def _ask_for(self, run: Run, process: dict[str, Any], numbers: dict[int, int]) -> None:
        channel = self.agent if self.needs_agent(process) else self.keeper
        assert channel is not None
        entrances = run.group.entrances() if run.group else []
        try:
            messages.send(
                channel,
                {"do": "run", "run": run.number, "process": process, "numbers": list(numbers)},
                [*numbers.values(), *entrances],
            )
        finally:
            for entrance in entrances:
                os.close(entrance)

    def kill(self, reason: str) -> None:
        """End every process of the container; its end is seen on the pidfd."""
        self.reason = self.reason or reason
        if self.over or self.pidfd < 0 or self._killed:
            return
        self._killed = True
        try:
            processes.send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it is over already; the pidfd says so
        else:
            self.group.thaw()

    def stop(self) -> None:
        """SIGTERM to what was started in it; where nothing runs, it is over now."""
        self.stopping = True
        if not self.runs:
            self.kill("stopped")
        for run in self.runs.values():
            if run.leader >= 0:
                with contextlib.suppress(ProcessLookupError):
                    processes.send_signal(run.leader, signal.SIGTERM)

    def kill_run(self, run: Run, reason: str) -> None:
        """End every process of one run, daemonised ones too."""
        run.reason = run.reason or reason
        if run.group is None:
            self.kill(reason)
            return
        if run.leader >= 0:
            # Before it came into its group it has no children, and now it never will.
            try:
                processes.send_signal(run.leader, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended; what it left is in the group
        run.group.kill()

    def forked(self, run: Run, leader: int) -> None:
        """Pid 1 says that a run has its leader; a run that was ended before that ends now."""
        run.leader = os.dup(leader)
        if run.reason:
            self.kill_run(run, run.reason)

    def end_run(self, run: Run) -> None:
        """The leader is gone: so is everything that it left, and the group of the run."""
        if run.leader >= 0:
            os.close(run.leader)
            run.leader = -1
        if run.group:
            run.group.kill()
            run.group.remove()

    def usage(self) -> dict[str, Any]:
        """What the container used so far, from its cgroup and its writable layer."""
        usage: dict[str, Any] = self.group.usage()
        if self.writable >= 0:
            found = os.fstatvfs(self.writable)
            usage["storage_bytes"] = (found.f_blocks - found.f_bfree) * found.f_frsize
            usage["storage_limit"] = found.f_blocks * found.f_frsize
        return usage

    def end(self) -> None:
        """Pid 1 is gone: give everything back. Raises StepFailed if a group can't be removed."""
        self.over = True
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # mostly it is gone
                processes.send_signal(self.pidfd, signal.SIGKILL)
            processes.wait_ended(self.pidfd)  # a child of the maker, who reaps it
            os.close(self.pidfd)
        for channel in (self.agent, self.keeper):
            if channel:
                channel.close()
        if self.writable >= 0:
            os.close(self.writable)
        for run in self.runs.values():
            self.end_run(run)
        self.let_namespaces_go()
        for descriptor in (*self.leases, *self.waiting.values(), *self._entrances):
            os.close(descriptor)
        self._entrances.clear()
        self.waiting.clear()
        self.leases.clear()
        cells.let_go(self)
        try:
            if not (self.answered and (self._keeps_group() or self.group.remove_empty())):
                maker = self.slot.maker if self.answered else None
                self.group.kill(maker.pid if maker else None)
                self.group.remove()
        finally:
            if self.joined:
                self.slots.rest(self.slot)  # the next one shall not be in that network
            self.slots.give_back(self.slot, reuse=self._leaves_no_trace())

    def _new_group(self, name: str) -> Group:
        create = self._driver.create_again if self.order.get("pooled") else self._driver.create
        return create(name, self.order["config"]["linux"].get("resources", {}))

    def _keeps_group(self) -> bool:
        """Whether its group waits for another container that came out of a pool, as this one."""
        return bool(self.order.get("pooled")) and self._driver.keep(self.group)

    def _leaves_no_trace(self) -> bool:
        """Whether the user namespace is as new: nothing in it could have changed it."""
        if self.keeper is not None:
            return False
        held = self.order["config"]["process"].get("capabilities", {}).get("bounding")
        return not held and self.order["program"] is not None and "ranges" not in self.order


def prepare(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe with what is the same for every container of it worked out.

    Adds `flags` of unshare(2), the `kinds` of namespaces, `cgroup_namespace`, `network_namespace`
    and the bytes of the seccomp `program`.
    """
    config = recipe["config"]
    kinds = [entry["type"] for entry in config["linux"]["namespaces"]]
    flags = 0
    for kind in set(kinds) - {"cgroup"}:
        if processes.has_namespace(kind):
            flags |= processes.FLAG_OF_NAMESPACE[kind]
        elif kind != "time":  # of Linux 5.6, and only a clock's offsets are in it
            raise HostLacks(
                f"make a {kind} namespace: this kernel was built without: use one that has it"
            )
    program = recipe.pop("seccomp_program")  # None only where the plan waived it
    return {
        **recipe,
        "trees": [{**tree, "key": json.dumps(tree, sort_keys=True)} for tree in recipe["trees"]],
        "flags": flags,
        "kinds": [kind for kind in kinds if kind == "cgroup" or processes.has_namespace(kind)],
        "cgroup_namespace": "cgroup" in kinds,
        "network_namespace": "network" in kinds,
        "program": None if program is None else base64.b64decode(program),
    }


def _file_of(mount: Mapping[str, Any]) -> tuple[int, ...]:
    """Device and inode of a source: what was replaced on the host is bound anew."""
    found = _found(mount)
    return found.st_dev, found.st_ino


def _state_of(mount: Mapping[str, Any]) -> tuple[int, ...]:
    """The same where a file may be copied, whose content counts then."""
    found = _found(mount)
    content = (found.st_size, found.st_mtime_ns) if _is_small(found) else ()
    return found.st_dev, found.st_ino, *content


def _found(mount: Mapping[str, Any]) -> os.stat_result:
    try:
        return os.stat(mount["source"], follow_symlinks=False)
    except FileNotFoundError as error:
        raise StepFailed("find mount source", mount["source"], "it is gone", 2) from error


def _is_small(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_size <= MOST_COPIED


def _copied(source: str, root: int, destination: str) -> bool:
    """Whether it is a small file that everybody may read, which is copied to a place below `root`.

    A mount costs each container more than the file would, were it read each time.
    """
    with step("copy", source):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            file = paths.open_below(mounts.AT_FDCWD, source, flags, paths.RESOLVE_NO_SYMLINKS)
        except PermissionError:
            return False
        try:
            found = os.fstat(file)
            if not _is_small(found) or not found.st_mode & stat.S_IROTH:
                return False
            place = paths.find_or_make(root, destination, directory=False)
            try:
                with open(f"/proc/self/fd/{place}", "wb") as copy:
                    copy.write(os.read(file, MOST_COPIED))
                    os.fchmod(copy.fileno(), found.st_mode & 0o777)
                os.utime(f"/proc/self/fd/{place}", ns=(found.st_atime_ns, found.st_mtime_ns))
            finally:
                os.close(place)
        finally:
            os.close(file)
    return True


def _show_as(tree: int, namespace: int) -> None:
    """Files of a detached tree belong to the ids of a user namespace. Raises OSError."""
    try:
        mounts.map_identities(tree, namespace)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise HostLacks(
            "its file system can't show files under other ids: have it on ext4, xfs, btrfs or "
            "tmpfs (the store of images is where `SANDBOX_KERNEL_IMAGES` says)"
        ) from error


def _attributes(mount: Mapping[str, Any]) -> int:
    attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
    for option in mount.get("options", ()):
        attributes |= mounts.ATTRIBUTE_OF_OPTION.get(option, 0)
    return attributes


def _tree(path: str, attributes: int) -> int:
    """A detached copy of the mounts at a path of the host in which no link is followed."""
    with step("open mount source", path):
        place = paths.open_below(
            mounts.AT_FDCWD,
            path,
            os.O_PATH | os.O_NOFOLLOW,
            paths.RESOLVE_NO_SYMLINKS,
        )
        try:
            tree = mounts.clone_tree(place)
        finally:
            os.close(place)
        try:
            # What the host mounts below it later is not for a container that runs.
            private = mounts.MS_PRIVATE
            mounts.change(tree, wanted=attributes, propagation=private, recursive=True)
        except BaseException:
            os.close(tree)
            raise
    return tree
