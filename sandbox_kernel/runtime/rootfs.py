"""The root file system of a container: how it is laid out from descriptors before any other code.

The order is the security. Each step is commented with what it guards against; the flaws named are
those of other runtimes, and each has a test in `tests/hostile`.

Every function adds calls to a list (`linux.multicall`). They are the same for all containers of a
recipe, so they are written down once and done with each. What is done depends on nothing but what
the kernel answers then: a place that is not there today is masked tomorrow if it is there.

They are done in the new namespaces, as root of the new user namespace. What the host has to give
(trees to bind, device nodes, masks) was opened by the launcher before they were made, since
nothing of the host can be looked up by a name that a container could change (CVE-2025-31133).
"""

from __future__ import annotations

import errno
import fcntl
import os

from sandbox_kernel.errors import SandboxError, StepFailed
from sandbox_kernel.linux import first_process, mounts, paths
from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux.multicall import Calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from sandbox_kernel.linux.multicall import Cell

# Any directory that every machine has: the new root stands there until it becomes the root.
STAGE = "/tmp"  # noqa: S108 - mounted over in a private namespace, never written to
INODES_FOR_EACH_BYTE = 1 / 8192
FEWEST_INODES = 4096
MOST_INODES = 1_000_000
# Places that the kernel fills. An image in which one of them is a link is refused, since masks
# and mounts would land elsewhere (CVE-2019-19921, CVE-2023-28642).
OWN_PLACES = ("/proc", "/sys", "/dev")
NO_DIRECTORY = "the image has something there that is no directory: use an image that is whole"
# Options of proc, of a container with `strict`, beyond those with which pid 1 mounts it.
STRICT_PROC = frozenset(("ro", "hidepid=invisible"))


def told(error: BaseException, name: str) -> dict[str, Any]:
    """An error on the way of a container, `name`, as a message has it."""
    if isinstance(error, StepFailed):
        return {field: getattr(error, field) for field in ("step", "subject", "why", "errno")}
    why = str(error) if isinstance(error, SandboxError) else repr(error)
    return {"step": "make", "subject": name, "why": why, "errno": 0}


class Layout:
    """How the root file system of containers of one recipe is made and entered.

    `order` is the launch order (see `launcher`), `names` what the launcher opens for it, detached
    mounts: "layer N", "tree N", "mount N", "file N", "dev", "null" and "empty"; `folders` those of
    them that are directories. Proc has to be mounted by who is in the new pid namespace: between
    the calls of `first`, whose last makes the place of it the working directory, and those of
    `then`. `calls` are those that come before all of it.
    """

    def __init__(
        self,
        order: Mapping[str, Any],
        names: Collection[str],
        folders: Collection[str],
        calls: Calls,
    ) -> None:
        self._order = order
        self._folders = folders
        self.first = calls
        self.then = Calls()
        self.trees = {name: (self.first.given(), self.then.given()) for name in names}
        """The cells of each in the two lists."""
        self._lay_out()

    def _lay_out(self) -> None:
        config = self._order["config"]
        trees = {name: first for name, (first, _) in self.trees.items()}
        calls = self.first
        with calls.step("make private", "/"):
            # Nothing mounted from here on may be seen outside, nor the other way round.
            mounts.make_private_by(calls)
        self.base, root = begin(calls, self._order, trees, STAGE)
        listed = list(enumerate(config.get("mounts", ())))
        procs = [index for index, mount in listed if mount.get("type") == "proc"]
        for index, mount in listed[: procs[0] if procs else len(listed)]:
            self._mount(calls, root, mount, index, trees)
        self.root = root
        if procs:
            proc = listed[procs[0]][1]
            with calls.step("mount", proc["destination"]):
                self.place = paths.find_or_make_by(calls, root, proc["destination"], directory=True)
        else:
            # A container for files alone shows no proc: pid 1 mounts it where the old root goes.
            proc = None
            with calls.step("mount", "/proc"):
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                self.place = calls.call("openat", mounts.AT_FDCWD, b"/proc", flags)
        with calls.step("enter", "the place of proc"):
            calls.call("fchdir", self.place)

        trees = {name: then for name, (_, then) in self.trees.items()}
        calls = self.then
        self.root_then, self.place_then = root, place = calls.given(), calls.given()
        with calls.step("enter", "the new root"):
            calls.close(place)
            calls.call("fchdir", root)
        if proc:
            _set_options_of_proc(calls, root, proc)
            for index, mount in listed[procs[0] + 1 :]:
                self._mount(calls, root, mount, index, trees)
        put_files(calls, root, self._order, trees)
        # Masks come after every mount and before any code of the container (CVE-2025-52565), on
        # places that are looked up in the file systems just mounted, whose sources are the host's.
        linux = config.get("linux", {})
        for path in linux.get("maskedPaths", ()):
            _mask(calls, root, path, trees)
        for path in linux.get("readonlyPaths", ()):
            _make_read_only(calls, root, path)
        if config.get("root", {}).get("readonly"):
            with calls.step("make read-only", "/"):
                mounts.set_attributes_by(calls, root, mounts.MOUNT_ATTR_RDONLY, recursive=False)
        with calls.step("pivot_root", "/"):
            # The old root is detached as a whole, so that no path leads back to it.
            mounts.change_root_here_by(calls)
        calls.close(root)
        calls.call("umask", 0o022)

    def _mount(
        self,
        calls: Calls,
        root: Cell,
        mount: Mapping[str, Any],
        index: int,
        trees: Mapping[str, Cell],
    ) -> None:
        destination = mount["destination"]
        kind = mount.get("type", "bind")
        name = f"mount {index}"
        directory = True
        with calls.step("mount", destination):
            if name in trees:
                directory, detached = name in self._folders, trees[name]
            elif destination == "/dev" and kind == "tmpfs":
                # A tree of device nodes which the launcher made of the host's own (never the
                # container's) files. It is read-only; what is written to lies in mounts below it.
                detached = trees["dev"]
            else:
                options, attributes = _options(mount)
                detached = mounts.new_filesystem_by(calls, kind, options, attributes)
        put(calls, root, destination, detached, directory=directory)


def begin(
    calls: Calls, order: Mapping[str, Any], trees: Mapping[str, Cell], stage: str
) -> tuple[Cell, Cell]:
    """The writable layer, mounted on the folder `stage`, and the root over it: descriptors.

    With the image's layers, entries and trees in it, and no mounts yet. The working directory is
    the root then, and the umask 0.
    """
    # The modes of entries are meant as they are written.
    calls.call("umask", 0)
    base = _writable_layer(calls, order.get("storage_size"), stage)
    layers = order.get("layers", ())
    root = _overlay(calls, base, len(layers), trees) if layers else _same(calls, base)
    with calls.step("enter", "the new root"):
        calls.call("fchdir", root)
    _refuse_links(calls, root)
    for entry in order.get("entries", ()):
        make_entry(calls, root, entry)
    for index, tree in enumerate(order.get("trees", ())):
        put(calls, root, tree["destination"], trees[f"tree {index}"], directory=True)
    return base, root


def put_files(
    calls: Calls, root: Cell | int, order: Mapping[str, Any], trees: Mapping[str, Cell]
) -> None:
    """The files of ours that a container in a network has."""
    for index, file in enumerate(order.get("files") or ()):
        _put_file(calls, root, file["path"], trees[f"file {index}"])


def _writable_layer(calls: Calls, size: int | None, place: str) -> Cell:
    options: list[tuple[str, str | None]] = [("mode", "0755")]
    if size is not None:
        inodes = min(max(int(size * INODES_FOR_EACH_BYTE), FEWEST_INODES), MOST_INODES)
        options += [("size", str(size)), ("nr_inodes", str(inodes))]
    with calls.step("mount tmpfs", "the writable layer"):
        attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
        base = mounts.new_filesystem_by(calls, "tmpfs", tuple(options), attributes)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        stage = calls.call("openat", mounts.AT_FDCWD, os.fsencode(place), flags)
        mounts.place_by(calls, base, stage)
        calls.close(stage)
    return base


def _overlay(calls: Calls, base: Cell, count: int, trees: Mapping[str, Cell]) -> Cell:
    """An overlay of the layers with the writable one on top. Returns its descriptor.

    The layers are attached below the writable layer first: overlayfs takes names, and the names
    there are ours alone, so no separator of an option can hide in them.
    """
    with calls.step("mount overlay", "the image's layers"):
        calls.call("fchdir", base)
        for name in (b"upper", b"work", b"root"):
            calls.call("mkdirat", base, name, 0o755)
        names = []
        for index in range(count):
            name = b"layer%d" % index
            calls.call("mkdirat", base, name, 0o777)
            target = calls.call("openat", base, name, os.O_PATH | os.O_CLOEXEC)
            mounts.place_by(calls, trees[f"layer {index}"], target)
            calls.close(target)
            names.append(name)
        # The first layer of an image is the lowest, overlayfs names the highest first.
        lower = b":".join(reversed(names))
        data = b"lowerdir=" + lower + b",upperdir=upper,workdir=work,userxattr"
        calls.call("mount", b"overlay", b"root", b"overlay", MS_NOSUID | MS_NODEV, data)
        return calls.call("openat", base, b"root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


# include/uapi/linux/mount.h, for mount(2)
MS_NOSUID = 2
MS_NODEV = 4


def _same(calls: Calls, descriptor: Cell) -> Cell:
    return calls.call("fcntl", descriptor, fcntl.F_DUPFD_CLOEXEC, 0)


def _refuse_links(calls: Calls, root: Cell) -> None:
    for place in OWN_PLACES:
        missing = calls.label()
        with calls.step("check", place):
            found = paths.find_by(
                calls,
                root,
                place,
                directory=True,
                passing=(errno.ENOENT,),
                instead=missing,
                why=NO_DIRECTORY,
            )
            calls.close(found)
        calls.here(missing)


def make_entry(calls: Calls, root: Cell | int, entry: Mapping[str, Any]) -> None:
    """One directory, link or small file that the image is given beside its layers."""
    path = entry["path"]
    with calls.step("make", path):
        parent, _, last = path.rpartition("/")
        name = paths.encoded(last)
        directory = paths.find_or_make_by(calls, root, parent, directory=True) if parent else root
        if entry["kind"] == "directory":
            mode = entry.get("mode", 0o755)
            calls.call("mkdirat", directory, name, mode, passing=(errno.EEXIST,))
        elif entry["kind"] == "link":
            calls.call("symlinkat", paths.encoded(entry["target"]), directory, name)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            file = calls.call("openat", directory, name, flags, entry.get("mode", 0o644))
            text = entry["text"].encode()
            calls.call("write", file, text, len(text), written=len(text))
            calls.close(file)
        if directory is not root:
            calls.close(directory)


def _put_file(calls: Calls, root: Cell | int, path: str, tree: Cell) -> None:
    """A file of ours over what the image has there; a link of that name is no way elsewhere."""
    parent, _, last = path.rpartition("/")
    name = paths.encoded(last)
    with calls.step("mount", path):
        directory = paths.find_or_make_by(calls, root, parent, directory=True)
        no_link = calls.label()
        some = b"\0"  # of what the link says
        calls.call(
            "readlinkat", directory, name, some, len(some),
            passing=(errno.ENOENT, errno.EINVAL), instead=no_link,
        )  # fmt: skip
        calls.call("unlinkat", directory, name, 0)
        calls.here(no_link)
        calls.close(directory)
    put(calls, root, path, tree, directory=False)


def put(
    calls: Calls, root: Cell | int, destination: str, tree: Cell | int, *, directory: bool
) -> None:
    """Attach a detached mount, whose descriptor is closed, to a place that is made if missing."""
    with calls.step("mount", destination):
        target = paths.find_or_make_by(calls, root, destination, directory=directory)
        mounts.place_by(calls, tree, target)
        calls.close(target)
        calls.close(tree)


def put_now(root: int, destination: str, tree: int, *, directory: bool) -> None:
    """`put`, done at once. Raises StepFailed; the descriptor of the tree is closed then too."""
    calls = Calls()
    put(calls, root, destination, tree, directory=directory)
    try:
        calls.run()
    except StepFailed:
        os.close(tree)
        raise


def _options(mount: Mapping[str, Any]) -> tuple[tuple[tuple[str, str | None], ...], int]:
    """Those of the file system, and the attributes of the mount."""
    attributes = 0
    options: list[tuple[str, str | None]] = []
    for option in mount.get("options", ()):
        if option in mounts.ATTRIBUTE_OF_OPTION:
            attributes |= mounts.ATTRIBUTE_OF_OPTION[option]
        elif option not in {"rw", "bind", "rbind", "private", "rprivate", "exec", "dev", "suid"}:
            key, equals, value = option.partition("=")
            options.append((key, value if equals else None))
    return tuple(options), attributes


def _set_options_of_proc(calls: Calls, root: Cell, mount: Mapping[str, Any]) -> None:
    """Pid 1 knows how to mount, and no options: they are set on what it has mounted."""
    destination, options = mount["destination"], set(mount["options"])
    more = options - first_process.MOUNT_OPTIONS
    if more - STRICT_PROC or not options >= first_process.MOUNT_OPTIONS:
        why = "pid 1 of this container knows no such options"
        raise StepFailed("mount", destination, why, errno.EINVAL)
    if not more:
        return
    with calls.step("mount", destination):
        place = paths.find_by(calls, root, destination)
    for option in sorted(more - {"ro"}):
        with calls.step("mount", f"{destination} with {option}"):
            key, _, value = option.partition("=")
            mounts.reconfigure_by(calls, place, ((key, value),))
    if "ro" in more:
        with calls.step("make read-only", destination):
            mounts.set_attributes_by(calls, place, mounts.MOUNT_ATTR_RDONLY, recursive=False)
    calls.close(place)


def _mask(calls: Calls, root: Cell, path: str, trees: Mapping[str, Cell]) -> None:
    """Cover a place by the launcher's empty file or folder.

    The first place takes the mount itself: a detached mount of another mount namespace can't be
    copied (EINVAL), one that is attached here can.
    """
    folder, end = calls.label(), calls.label()
    gone = (errno.ENOENT, errno.ENOTDIR)
    with calls.step("mask", path):
        place = paths.find_by(calls, root, path, directory=True, passing=gone, then=folder)
        # Nothing there to hide, or a file.
        paths.find_by(calls, root, path, passing=gone, instead=end, into=place)
        _cover(calls, trees["null"], place)
        calls.call("close", place, then=end)
        calls.here(folder)
        _cover(calls, trees["empty"], place)
        calls.close(place)
        calls.here(end)


def _cover(calls: Calls, tree: Cell, place: Cell) -> None:
    first, end = calls.label(), calls.label()
    cover = calls.call(
        c.OPEN_TREE, tree, b"", mounts.COPYING, passing=(errno.EINVAL,), instead=first
    )
    mounts.place_by(calls, cover, place)
    calls.call("close", cover, then=end)
    calls.here(first)
    mounts.place_by(calls, tree, place)
    calls.here(end)


def _make_read_only(calls: Calls, root: Cell, path: str) -> None:
    end = calls.label()
    with calls.step("make read-only", path):
        gone = (errno.ENOENT, errno.ENOTDIR)
        target = paths.find_by(calls, root, path, passing=gone, instead=end)
        same = calls.call(c.OPEN_TREE, target, b"", mounts.COPYING)
        mounts.set_attributes_by(calls, same, mounts.MOUNT_ATTR_RDONLY)
        mounts.place_by(calls, same, target)
        calls.close(same)
        calls.close(target)
        calls.here(end)
