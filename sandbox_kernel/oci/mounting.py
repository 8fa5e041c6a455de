"""The root file system of a container by its configuration: mounts, devices, masks, pivot_root.

What comes from the host was opened by descriptor (`sources`) before the namespaces were made, or by
an ordinary user's child before it mounted anything; each place inside is found below the root's
descriptor, following no link that leads out (openat2(2)).
Options are those of config.md ("Linux mount options") and of mount(8), as tables.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox_kernel.linux import mounts, paths
from sandbox_kernel.oci.faults import StepFailed, doing, wrong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

# include/uapi/linux/mount.h
ATIME_MASK = 0x70
ATTRIBUTES = {
    "ro": 0x1, "nosuid": 0x2, "nodev": 0x4, "noexec": 0x8, "noatime": 0x10, "strictatime": 0x20,
    "nodiratime": 0x80, "nosymfollow": 0x200000,
}  # fmt: skip
CLEARED = {
    "rw": 0x1, "suid": 0x2, "dev": 0x4, "exec": 0x8, "atime": ATIME_MASK, "diratime": 0x80,
    "relatime": ATIME_MASK, "norelatime": ATIME_MASK, "nostrictatime": ATIME_MASK,
    "symfollow": 0x200000,
}  # fmt: skip
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
PROPAGATION = {
    "unbindable": MS_UNBINDABLE, "private": MS_PRIVATE, "slave": MS_SLAVE, "shared": MS_SHARED
}  # fmt: skip
OF_THE_SUPERBLOCK = {"sync": "sync", "dirsync": "dirsync", "mand": "mand", "lazytime": "lazytime"}
NOTHING = frozenset(
    ("bind", "rbind", "defaults", "async", "nomand", "nolazytime", "loud", "silent", "remount",
     "iversion", "noiversion", "acl", "noacl", "idmap", "ridmap", "tmpcopyup")
)  # fmt: skip

# The file systems whose files are the container's own, which SELinux is told of when it is on.
LABELLED = ("tmpfs", "devpts", "mqueue")
DEVICES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0),
}  # fmt: skip
LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"),
)  # fmt: skip
OF_THE_KERNEL = ("/proc", "/sys", "/dev")
TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class Options:
    """What the options of one mount mean."""

    def __init__(self, words: Sequence[str]) -> None:
        self.set = self.clear = self.propagation = 0
        self.deep_set = self.deep_clear = self.deep_propagation = 0
        self.data: list[tuple[str, str | None]] = []
        self.copy_up = "tmpcopyup" in words
        for word in words:
            self._take(word)

    def _take(self, word: str) -> None:
        deep = word[1:] if word.startswith("r") and word not in ("ro", "rw", "relatime") else ""
        if word in ATTRIBUTES:
            self.set |= ATTRIBUTES[word]
            self.clear |= ATIME_MASK if word in ("noatime", "strictatime") else 0
        elif word in CLEARED:
            self.clear |= CLEARED[word]
            self.set &= ~CLEARED[word]
        elif word in PROPAGATION:
            self.propagation = PROPAGATION[word]
        elif deep in PROPAGATION:
            self.deep_propagation = PROPAGATION[deep]
        elif deep in ATTRIBUTES:
            self.deep_set |= ATTRIBUTES[deep]
            self.deep_clear |= ATIME_MASK if deep in ("noatime", "strictatime") else 0
        elif deep in CLEARED:
            self.deep_clear |= CLEARED[deep]
        elif word in NOTHING:
            pass
        elif word in OF_THE_SUPERBLOCK:
            self.data.append((OF_THE_SUPERBLOCK[word], None))
        else:
            key, equals, value = word.partition("=")
            self.data.append((key, value if equals else None))

    def apply(self, mount: int) -> None:
        """Change a mount, by its descriptor. Raises OSError."""
        if self.deep_set or self.deep_clear:
            mounts.change(mount, wanted=self.deep_set, cleared=self.deep_clear, recursive=True)
        if self.set or self.clear:
            mounts.change(mount, wanted=self.set, cleared=self.clear)

    def propagate(self, mount: int) -> None:
        """Say how mounts go on below it, once it is in its place. Raises OSError."""
        if self.deep_propagation:
            mounts.change(mount, propagation=self.deep_propagation, recursive=True)
        if self.propagation:
            mounts.change(mount, propagation=self.propagation)


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Whether it shows something of the host."""
    words = mount.get("options") or ()
    return mount.get("type") == "bind" or "bind" in words or "rbind" in words


def sources(config: Mapping[str, Any], bundle: str, *, new_user: bool) -> dict[str, int]:
    """Detached mounts of all that comes from the host. Raises StepFailed.

    A copy is a peer of a mount that is shared, as all are where systemd made `/`: what is mounted
    on it would be mounted on the host too, and pivot_root(2) takes no such root. So none stays one,
    but those whose options say `shared`. What the host mounts below a bind is seen, as by runc.
    """
    found: dict[str, int] = {}
    for index, mount in enumerate(config.get("mounts") or ()):
        if not is_bind(mount):
            continue
        source = os.path.join(bundle, mount.get("source") or "")
        words = mount.get("options") or ()
        kept = "shared" in words or "rshared" in words
        with doing("open mount source", source):
            found[f"mount {index}"] = _copied(
                source, deep="bind" not in words or "rbind" in words,
                propagation=0 if kept else MS_SLAVE,
            )  # fmt: skip
            if mount.get("uidMappings") or "idmap" in words or "ridmap" in words:
                _map(found[f"mount {index}"], mount, config["linux"])
    if new_user:  # who is root of a user namespace alone can make no device node
        wanted = {f"/dev/{name}": name for name in DEVICES}
        wanted |= {each["path"]: each["path"] for each in config["linux"].get("devices") or ()}
        for path in wanted:
            found[f"device {path}"] = _device_tree(path)
    found["null"] = _device_tree("/dev/null")
    path = os.path.join(bundle, config["root"]["path"])
    follows = config["linux"].get("rootfsPropagation") in ("slave", "rslave")
    with doing("open root file system", path):
        found["root"] = _copied(
            path, os.O_DIRECTORY, propagation=MS_SLAVE if follows else MS_PRIVATE
        )
    return found


def _map(tree: int, mount: Mapping[str, Any], linux: Mapping[str, Any]) -> None:
    """Show other ids. By who has rights over the file system: nobody in a user namespace has."""
    from sandbox_kernel.oci import births

    uid = mount.get("uidMappings") or linux.get("uidMappings")
    gid = mount.get("gidMappings") or linux.get("gidMappings")
    if not uid or not gid:
        raise wrong("mounts.uidMappings", uid, "maps beside the option `idmap`")
    namespace = births.mapped_namespace(uid, gid)
    try:
        deep = "ridmap" in (mount.get("options") or ())
        mounts.map_identities(tree, namespace, recursive=deep)
    finally:
        os.close(namespace)


def _device_tree(path: str) -> int:
    with doing("open device", path):
        return _copied(path, deep=False, propagation=MS_PRIVATE)


def _copied(path: str, flags: int = 0, *, deep: bool = True, propagation: int = MS_SLAVE) -> int:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
    try:
        tree = mounts.clone_tree(place, recursive=deep)
    finally:
        os.close(place)
    if propagation:
        mounts.change(tree, propagation=propagation, recursive=True)
    return tree


class Root:
    """A root file system on its way: `here` is its descriptor, `trees` what came of the host."""

    def __init__(self, config: Mapping[str, Any], here: int, trees: Mapping[str, int]) -> None:
        self.config = config
        self.here = here
        self._trees = trees
        self._kernel: dict[str, int] = {}  # what is mounted on its places, by descriptor

    def refuse_links(self) -> None:
        """An image that leads /proc elsewhere would have masks and labels put there, not on what
        the kernel shows (CVE-2019-19921, CVE-2023-28642). Raises StepFailed."""
        for place in OF_THE_KERNEL:
            try:
                mode = os.stat(place[1:], dir_fd=self.here, follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(mode):
                raise StepFailed("check", place, "the root has something there that is no folder")

    def make_mounts(self, cgroups: Mapping[str, str]) -> None:
        """All of them, in their order. Raises StepFailed, InvalidOption."""
        for index, mount in enumerate(self.config.get("mounts") or ()):
            destination = "/" + str(mount["destination"]).lstrip("/")
            with doing(f"mount `{mount.get('type') or 'bind'}` on", destination):
                self._mount(index, mount, destination, cgroups)

    def _mount(
        self, index: int, mount: Mapping[str, Any], destination: str, cgroups: Mapping[str, str]
    ) -> None:
        options = Options(mount.get("options") or ())
        kind = str(mount.get("type") or "")
        if tree := self._trees.get(f"mount {index}"):
            directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        elif kind == "cgroup":
            self._mount_cgroups(destination, options, cgroups)
            return
        else:
            directory = True
            if kind == "cgroup2":
                options.data = []
            source = [("source", str(mount["source"]))] if mount.get("source") else []
            data = [*source, *options.data] if kind not in ("proc", "sysfs") else options.data
            if kind in LABELLED and (label := self.config["linux"].get("mountLabel")):
                data = [*data, ("context", label)]
            tree = self._new(kind, tuple(data), mount)
        if options.copy_up:
            self._copy_up(destination, tree)
        options.apply(tree)
        is_kernel = kind in ("proc", "sysfs")
        self.put(destination, tree, directory=directory, linked=not is_kernel)
        options.propagate(tree)
        place = destination.rstrip("/")
        for covered in [each for each in self._kernel if f"{each}/".startswith(f"{place}/")]:
            os.close(self._kernel.pop(covered))
        if is_kernel:
            self._kernel[place] = tree
        else:
            os.close(tree)

    def _new(
        self, kind: str, data: tuple[tuple[str, str | None], ...], mount: Mapping[str, Any]
    ) -> int:
        try:
            return mounts.new_filesystem(kind, data, 0)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise wrong("mounts.type", kind, "a file system that this kernel has") from error
            raise

    def put(self, destination: str, tree: int, *, directory: bool, linked: bool = True) -> None:
        """Attach a mount on a place that is made if it is missing. Raises OSError.

        `linked`: links are followed, as the container would. What is the kernel's is put on no link
        that an image or a neighbour made.
        """
        if linked:
            place = self.place(destination, directory=directory)
        else:
            place = paths.find_or_make(self.here, destination, directory=directory)
        try:
            mounts.place(tree, place)
        finally:
            os.close(place)

    def place(self, path: str, *, directory: bool) -> int:
        """A place inside, with links followed as the container would, and made if missing."""
        try:
            return paths.open_below(self.here, path, os.O_PATH, paths.RESOLVE_IN_ROOT)
        except FileNotFoundError:
            pass
        return paths.find_or_make(self.here, self._resolved(path), directory=directory)

    def _resolved(self, path: str) -> str:
        """The path with the links of its part that is there taken, all below the root."""
        parts = [part for part in path.split("/") if part]
        for count in range(len(parts) - 1, 0, -1):
            try:
                there = paths.open_below(
                    self.here, "/".join(parts[:count]), os.O_PATH, paths.RESOLVE_IN_ROOT
                )
            except FileNotFoundError:
                continue
            try:
                real = os.readlink(f"/proc/self/fd/{there}")
                root = os.readlink(f"/proc/self/fd/{self.here}").rstrip("/")
            finally:
                os.close(there)
            if real != root and not real.startswith(f"{root}/"):
                break
            return "/".join([real[len(root) :], *parts[count:]])
        return path

    def _copy_up(self, destination: str, tree: int) -> None:
        """What the image has at a place is copied into the tmpfs that covers it."""
        import shutil

        try:
            below = paths.open_below(self.here, destination, os.O_RDONLY, paths.RESOLVE_IN_ROOT)
        except FileNotFoundError:
            return
        try:
            shutil.copytree(
                f"/proc/self/fd/{below}/.", f"/proc/self/fd/{tree}/.", symlinks=True,
                dirs_exist_ok=True,
            )  # fmt: skip
        finally:
            os.close(below)

    def _mount_cgroups(
        self, destination: str, options: Options, cgroups: Mapping[str, str]
    ) -> None:
        """The container's own groups: v2 as it is, v1 as a folder with one for each hierarchy."""
        own = any(n["type"] == "cgroup" for n in self.config["linux"].get("namespaces") or ())
        options.data = []
        if "" in cgroups:
            tree = (
                mounts.new_filesystem("cgroup2", (), 0)
                if own
                else _copied(cgroups[""], os.O_DIRECTORY)
            )
            options.apply(tree)
            self.put(destination, tree, directory=True)
            os.close(tree)
            return
        base = mounts.new_filesystem("tmpfs", (("mode", "0755"),), 0)
        self.put(destination, base, directory=True)
        together: dict[str, list[str]] = {}
        for controller, directory in cgroups.items():
            together.setdefault(directory, []).append(controller)
        for directory, controllers in together.items():
            name = ",".join(each.removeprefix("name=") for each in controllers)
            data = tuple(
                ("name", each[5:]) if each.startswith("name=") else (each, None)
                for each in controllers
            )
            tree = (
                mounts.new_filesystem("cgroup", data, 0)
                if own
                else _copied(directory, os.O_DIRECTORY)
            )
            options.apply(tree)
            # The folder is new and nobody's but ours, so there is no link to beware of.
            os.mkdir(name, 0o755, dir_fd=base)
            place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
            mounts.place(tree, place)
            os.close(place)
            os.close(tree)
            if len(controllers) > 1:
                for each in controllers:
                    os.symlink(name, each, dir_fd=base)
        options.apply(base)
        os.close(base)

    def make_devices(self) -> None:
        """The default ones and those of the list, with the links that programs expect."""
        dev = self.place("/dev", directory=True)
        try:
            for name, (major, minor) in DEVICES.items():
                self._device({"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor,
                              "fileMode": 0o666}, dev)  # fmt: skip
            for each in self.config["linux"].get("devices") or ():
                self._device(each, dev)
            for name, target in LINKS:
                try:
                    os.symlink(target, name, dir_fd=dev)
                except FileExistsError:
                    continue
        finally:
            os.close(dev)

    def _device(self, device: Mapping[str, Any], dev: int) -> None:
        path = str(device["path"])
        with doing("make device", path):
            if tree := self._trees.get(f"device {path}"):
                self.put(path, tree, directory=False, linked=False)
                return
            folder, _, name = path.rpartition("/")
            parent = os.dup(dev) if folder == "/dev" else self.place(folder or "/", directory=True)
            mode = device.get("fileMode") or 0o666
            kind = TYPES.get(str(device.get("type")))
            if kind is None:
                raise wrong("linux.devices.type", device.get("type"), "c, u, b or p")
            try:
                number = os.makedev(device.get("major") or 0, device.get("minor") or 0)
                try:
                    os.mknod(name, kind | (mode & 0o7777), number, dir_fd=parent)
                except FileExistsError:
                    seen = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if stat.S_IFMT(seen.st_mode) != kind or seen.st_rdev != number:
                        raise
                os.chown(
                    name, device.get("uid") or 0, device.get("gid") or 0, dir_fd=parent,
                    follow_symlinks=False,
                )  # fmt: skip
            finally:
                os.close(parent)

    def console(self) -> int:
        """The place of /dev/console in the root that was entered, and no link. Raises StepFailed.

        It is covered by `bind_console` when all masks are in place (CVE-2025-52565).
        """
        with doing("find", "/dev/console"):
            # The root's descriptor is the old one's: the root is where we are now.
            self.here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            return paths.find_or_make(self.here, "/dev/console", directory=False)

    def enter(self, *, has_mount_namespace: bool) -> None:
        """Become it: the host's tree is gone from here on."""
        with doing("pivot_root", "/"):
            os.fchdir(self.here)
            if has_mount_namespace:
                mounts.change_root_here()
            else:
                os.chroot(".")
                os.chdir("/")

    def close_places(self) -> None:
        """Masks, read-only paths, and the root itself; after `enter`."""
        linux = self.config["linux"]
        attached = False
        for path in linux.get("maskedPaths") or ():
            for place in self._found(path):
                attached = _mask(path, place, self._trees["null"], attached=attached) or attached
        for path in linux.get("readonlyPaths") or ():
            for place in self._found(path):
                _make_read_only(path, place)
        if word := linux.get("rootfsPropagation"):
            with doing("set propagation of", "/"):
                flag = PROPAGATION.get(word) or PROPAGATION.get(word.removeprefix("r"))
                if flag is None:
                    allowed = ", ".join(PROPAGATION)
                    raise wrong("linux.rootfsPropagation", word, allowed)
                root = os.open("/", os.O_PATH | os.O_CLOEXEC)
                mounts.change(root, propagation=flag, recursive=word.startswith("r"))
                os.close(root)
        if (self.config.get("root") or {}).get("readonly"):
            with doing("make read-only", "/"):
                root = os.open("/", os.O_PATH | os.O_CLOEXEC)
                mounts.change(root, wanted=ATTRIBUTES["ro"], recursive=False)
                os.close(root)

    def _found(self, path: str) -> list[int]:
        """What is at a path, if anything; and what was there when it was mounted, if that is not
        the same: a neighbour to whom a folder of the root belongs may have moved it meanwhile
        (CVE-2019-19921). Raises StepFailed."""
        found = []
        with doing("find", path):
            for top, tree in self._kernel.items():
                if path.startswith(f"{top}/"):
                    flags, below = os.O_PATH | os.O_NOFOLLOW, path[len(top) + 1 :]
                    resolve = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_MAGICLINKS
                    try:
                        found.append(paths.open_below(tree, below, flags, resolve))
                    except (FileNotFoundError, NotADirectoryError):
                        continue
            try:
                place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return found
        if any(os.path.samestat(os.fstat(each), os.fstat(place)) for each in found):
            os.close(place)
            return found
        return [*found, place]


def bind_console(slave: int, place: int) -> None:
    """A terminal on the place of /dev/console. Raises StepFailed."""
    with doing("mount", "/dev/console"):
        tree = mounts.clone_tree(slave, recursive=False)
        mounts.place(tree, place)
        os.close(tree)


def _mask(path: str, place: int, null: int, *, attached: bool) -> bool:
    """Cover by the host's /dev/null, opened outside (CVE-2025-31133), or an empty folder.

    `place` is closed. Returns whether `null` itself was attached: only then can it be copied here.
    """
    with doing("mask", path):
        try:
            if stat.S_ISDIR(os.fstat(place).st_mode):
                options = (("mode", "0755"), ("size", "4k"), ("nr_inodes", "1"))
                cover = mounts.new_filesystem("tmpfs", options, ATTRIBUTES["ro"])
            elif not attached:
                seen = os.fstat(null)
                if (os.major(seen.st_rdev), os.minor(seen.st_rdev)) != DEVICES["null"]:
                    raise StepFailed("mask", path, "what covers it is not /dev/null")
                mounts.place(null, place)
                return True
            else:
                cover = mounts.clone_tree(null, recursive=False)
            mounts.place(cover, place)
            os.close(cover)
        finally:
            os.close(place)
    return False


def _make_read_only(path: str, place: int) -> None:
    with doing("make read-only", path):
        try:
            same = mounts.clone_tree(place)
            mounts.change(same, wanted=ATTRIBUTES["ro"], recursive=True)
            mounts.place(same, place)
            os.close(same)
        finally:
            os.close(place)
