"""The root file system of a container: laid out by pid 1, from descriptors, before any other code.

The order is the security. Each step is commented with what it guards against; the flaws named are
those of other runtimes, and each has a test in `tests/hostile`.

Runs in the new namespaces, as root of the new user namespace. What the host has to give (trees to
bind, device nodes, masks) was opened by the launcher before the namespaces were made, since
nothing of the host can be looked up by a name that a container could change (CVE-2025-31133).
"""

from __future__ import annotations

import contextlib
import os
import stat

from sandbox_kernel.errors import SandboxError, StepFailed
from sandbox_kernel.linux import first_process, mounts, paths, writing
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# Any directory that every machine has: the new root stands there until it becomes the root.
STAGE = "/tmp"  # noqa: S108 - mounted over in a private namespace, never written to
INODES_FOR_EACH_BYTE = 1 / 8192
FEWEST_INODES = 4096
MOST_INODES = 1_000_000
# Places that the kernel fills. An image in which one of them is a link is refused, since masks
# and mounts would land elsewhere (CVE-2019-19921, CVE-2023-28642).
OWN_PLACES = ("/proc", "/sys", "/dev")
# Options of proc, of a container with `strict`, beyond those with which pid 1 mounts it.
STRICT_PROC = frozenset(("ro", "hidepid=invisible"))


def told(error: BaseException, name: str) -> dict[str, Any]:
    """An error on the way of a container, `name`, as a message has it."""
    if isinstance(error, StepFailed):
        return {field: getattr(error, field) for field in ("step", "subject", "why", "errno")}
    why = str(error) if isinstance(error, SandboxError) else repr(error)
    return {"step": "make", "subject": name, "why": why, "errno": 0}


def lay_out(
    order: Mapping[str, Any],
    trees: Mapping[str, int],
    mount_proc: Callable[[int], None] | None = None,
) -> int:
    """Make the root file system and enter it. Returns a descriptor of the writable layer.

    `order` is the launch order (see `launcher`), `trees` the detached mounts that the launcher
    opened: "layer N", "tree N", "mount N", "file N", "dev", "null" and "empty". `mount_proc` is
    given the place of /proc by who is not in the new pid namespace, whose proc it has to be; it may
    change the working directory. Raises StepFailed.
    """
    config = order["config"]
    with step("make private", "/"):
        # Nothing mounted from here on may be seen outside, nor the other way round.
        mounts.make_private()
    base, root = begin(order, trees, STAGE)
    for index, mount in enumerate(config.get("mounts", ())):
        if mount_proc and mount.get("type") == "proc":
            _mount_by(mount_proc, root, mount)
        else:
            _mount(root, mount, trees.get(f"mount {index}"), trees)
    if mount_proc and not any(m.get("type") == "proc" for m in config.get("mounts", ())):
        # A container for files alone shows no proc: its pid 1 mounts it where the old root goes.
        with step("mount", "/proc"):
            place = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mount_proc(place)
            os.close(place)
            os.fchdir(root)
    put_files(root, order, trees)
    # Masks come after every mount and before any code of the container (CVE-2025-52565), on
    # places that are looked up in the file systems just mounted, whose sources are the host's.
    linux = config.get("linux", {})
    attached: set[str] = set()
    for path in linux.get("maskedPaths", ()):
        _mask(root, path, trees, attached)
    for path in linux.get("readonlyPaths", ()):
        _make_read_only(root, path)
    if config.get("root", {}).get("readonly"):
        with step("make read-only", "/"):
            mounts.set_attributes(root, mounts.MOUNT_ATTR_RDONLY, recursive=False)
    with step("pivot_root", "/"):
        # The old root is detached as a whole, so that no path leads back to it.
        mounts.change_root_here()
    os.close(root)
    os.umask(0o022)
    return base


def begin(order: Mapping[str, Any], trees: Mapping[str, int], stage: str) -> tuple[int, int]:
    """The writable layer, mounted on the folder `stage`, and the root over it: descriptors.

    With the image's layers, entries and trees in it, and no mounts yet. The working directory is
    the root then, and the umask 0.
    """
    # The modes of entries are meant as they are written.
    os.umask(0)
    base = _writable_layer(order.get("storage_size"), stage)
    layers = order.get("layers", ())
    root = _overlay(base, len(layers), trees) if layers else os.dup(base)
    with step("enter", "the new root"):
        os.fchdir(root)
    _refuse_links(root)
    for entry in order.get("entries", ()):
        make_entry(root, entry)
    for index, tree in enumerate(order.get("trees", ())):
        put(root, tree["destination"], trees[f"tree {index}"], directory=True)
    return base, root


def put_files(root: int, order: Mapping[str, Any], trees: Mapping[str, int]) -> None:
    """The files of ours that a container in a network has."""
    for index, file in enumerate(order.get("files") or ()):
        _put_file(root, file["path"], trees[f"file {index}"])


def _writable_layer(size: int | None, place: str) -> int:
    options: list[tuple[str, str | None]] = [("mode", "0755")]
    if size is not None:
        inodes = min(max(int(size * INODES_FOR_EACH_BYTE), FEWEST_INODES), MOST_INODES)
        options += [("size", str(size)), ("nr_inodes", str(inodes))]
    with step("mount tmpfs", "the writable layer"):
        base = mounts.new_filesystem(
            "tmpfs", tuple(options), mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
        )
        stage = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.place(base, stage)
        finally:
            os.close(stage)
    return base


def _overlay(base: int, count: int, trees: Mapping[str, int]) -> int:
    """An overlay of the layers with the writable one on top. Returns its descriptor.

    The layers are attached below the writable layer first: overlayfs takes names, and the names
    there are ours alone, so no separator of an option can hide in them.
    """
    with step("mount overlay", "the image's layers"):
        os.fchdir(base)
        for name in ("upper", "work", "root"):
            os.mkdir(name, 0o755)
        names = []
        for index in range(count):
            name = f"layer{index}"
            os.mkdir(name)
            target = os.open(name, os.O_PATH | os.O_CLOEXEC)
            mounts.place(trees[f"layer {index}"], target)
            os.close(target)
            names.append(name)
        # The first layer of an image is the lowest, overlayfs names the highest first.
        lower = ":".join(reversed(names))
        mounts.mount(
            "overlay",
            "root",
            "overlay",
            MS_NOSUID | MS_NODEV,
            f"lowerdir={lower},upperdir=upper,workdir=work,userxattr",
        )
        return os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


# include/uapi/linux/mount.h, for mount(2)
MS_NOSUID = 2
MS_NODEV = 4


def _refuse_links(root: int) -> None:
    for place in OWN_PLACES:
        try:
            mode = os.stat(place[1:], dir_fd=root, follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            raise StepFailed(
                "check",
                place,
                "the image has something there that is no directory: use an image that is whole",
            )


def make_entry(root: int, entry: Mapping[str, Any]) -> None:
    """One directory, link or small file that the image is given beside its layers."""
    path = entry["path"]
    with step("make", path):
        parent, _, name = path.rpartition("/")
        directory = paths.find_or_make(root, parent, directory=True) if parent else root
        try:
            if entry["kind"] == "directory":
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, entry.get("mode", 0o755), dir_fd=directory)
            elif entry["kind"] == "link":
                os.symlink(entry["target"], name, dir_fd=directory)
            else:
                file = os.open(
                    name,
                    os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                    entry.get("mode", 0o644),
                    dir_fd=directory,
                )
                try:
                    writing.whole(file, entry["text"].encode())
                finally:
                    os.close(file)
        finally:
            if directory != root:
                os.close(directory)


def _put_file(root: int, path: str, tree: int) -> None:
    """A file of ours over what the image has there; a link of that name is no way elsewhere."""
    parent, _, name = path.rpartition("/")
    with step("mount", path):
        directory = paths.find_or_make(root, parent, directory=True)
        try:
            if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        finally:
            os.close(directory)
    put(root, path, tree, directory=False)


def put(root: int, destination: str, tree: int, *, directory: bool) -> None:
    """Attach a detached mount, whose descriptor is closed, to a place that is made if missing."""
    with step("mount", destination):
        target = paths.find_or_make(root, destination, directory=directory)
        try:
            mounts.place(tree, target)
        finally:
            os.close(target)
            os.close(tree)


def _mount(root: int, mount: Mapping[str, Any], tree: int | None, trees: Mapping[str, int]) -> None:
    destination = mount["destination"]
    kind = mount.get("type", "bind")
    with step("mount", destination):
        attributes = 0
        options: list[tuple[str, str | None]] = []
        for option in mount.get("options", ()):
            if option in mounts.ATTRIBUTE_OF_OPTION:
                attributes |= mounts.ATTRIBUTE_OF_OPTION[option]
            elif option not in {
                "rw",
                "bind",
                "rbind",
                "private",
                "rprivate",
                "exec",
                "dev",
                "suid",
            }:
                key, equals, value = option.partition("=")
                options.append((key, value if equals else None))
        if tree is not None:
            directory = stat.S_ISDIR(os.fstat(tree).st_mode)
            detached = tree
        elif destination == "/dev" and kind == "tmpfs":
            # A tree of device nodes which the launcher made of the host's own (never the
            # container's) files. It is read-only; what is written to lies in mounts below it.
            directory, detached = True, trees["dev"]
        else:
            directory = True
            detached = mounts.new_filesystem(kind, tuple(options), attributes)
    put(root, destination, detached, directory=directory)


def _mount_by(mount_proc: Callable[[int], None], root: int, mount: Mapping[str, Any]) -> None:
    destination, options = mount["destination"], set(mount["options"])
    with step("mount", destination):
        more = options - first_process.MOUNT_OPTIONS
        if more - STRICT_PROC or not options >= first_process.MOUNT_OPTIONS:
            raise OSError(22, "pid 1 of this container knows no such options")
        place = paths.find_or_make(root, destination, directory=True)
        try:
            mount_proc(place)
        finally:
            os.close(place)
            os.fchdir(root)
    if not more:
        return
    # Pid 1 knows how to mount, and no options: they are set on what it has mounted.
    place = paths.find(root, destination)
    try:
        for option in sorted(more - {"ro"}):
            with step("mount", f"{destination} with {option}"):
                key, _, value = option.partition("=")
                mounts.reconfigure(place, ((key, value),))
        if "ro" in more:
            with step("make read-only", destination):
                mounts.set_attributes(place, mounts.MOUNT_ATTR_RDONLY, recursive=False)
    finally:
        os.close(place)


def _mask(root: int, path: str, trees: Mapping[str, int], attached: set[str]) -> None:
    """Cover a place by the launcher's empty file or folder.

    The first place takes the mount itself: a detached mount of another mount namespace can't be
    copied, one that is attached here can.
    """
    try:
        target = paths.find(root, path)
    except (FileNotFoundError, NotADirectoryError):
        return  # nothing there to hide
    with step("mask", path):
        try:
            source = "empty" if stat.S_ISDIR(os.fstat(target).st_mode) else "null"
            if source in attached:
                cover = mounts.clone_tree(trees[source])
                mounts.place(cover, target)
                os.close(cover)
            else:
                mounts.place(trees[source], target)
                attached.add(source)
        finally:
            os.close(target)


def _make_read_only(root: int, path: str) -> None:
    try:
        target = paths.find(root, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    with step("make read-only", path):
        try:
            same = mounts.clone_tree(target)
            mounts.set_attributes(same, mounts.MOUNT_ATTR_RDONLY)
            mounts.place(same, target)
            os.close(same)
        finally:
            os.close(target)
