"""Checks of chapter 7: an overlay that was mounted by hand, and what lies in each of its layers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text, same

FOLDER = "clean"
SECRET, SEEN = "password", "settings"
THERE, NOT_THERE = Text("there", "存在"), Text("not there", "不存在")
LEAST_LOWER = 2


def clean(variables: Variables) -> Iterator[Fact]:
    """An overlay on `clean` in none of whose layers the secret lies."""
    pid, mount = _mount(variables)
    upper, lower = _layers(pid, mount)
    yield fact(
        Text("lower layers", "下层"),
        str(len(lower)),
        Text(f"{LEAST_LOWER} or more", f"至少 {LEAST_LOWER}"),
        len(lower) >= LEAST_LOWER,
        f"/proc/{pid}/mountinfo",
    )
    yield _there(f"/proc/{pid}/root{mount.point}/{SEEN}", SEEN, wanted=True)
    for layer in (upper, *lower):
        yield _there(f"{layer}/{SECRET}", f"{os.path.basename(layer)}/{SECRET}", wanted=False)


def whiteout(variables: Variables) -> Iterator[Fact]:
    """The upper layer of `clean` hides what a lower one has."""
    pid, mount = _mount(variables)
    upper, lower = _layers(pid, mount)
    yield _there(f"/proc/{pid}/root{mount.point}/{SEEN}", SEEN, wanted=False)
    below = [layer for layer in lower if os.path.lexists(f"{layer}/{SEEN}")]
    yield fact(
        Text(f"lower layers that have `{SEEN}`", f"有 `{SEEN}` 的下层"),
        str(len(below)),
        Text("1 or more", "至少 1"),
        bool(below),
        ", ".join(below or lower),
    )
    path = f"{upper}/{SEEN}"
    try:
        found = os.lstat(path)
        is_whiteout = stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
        seen = same(f"{stat.filemode(found.st_mode)} {found.st_rdev}")
    except FileNotFoundError:
        is_whiteout, seen = False, NOT_THERE
    yield fact(
        Text("in the upper layer", "上层里"),
        seen,
        Text("a character device, number 0", "编号为 0 的字符设备"),
        is_whiteout,
        path,
    )


def _mount(variables: Variables) -> tuple[int, looking.Mount]:
    """The process that is the room, and its overlay on the folder. Raises Missing."""
    room = variables.get("room")
    pid = looking.process({"room": getattr(room, "pid", None)}, "room")
    for mount in looking.mounts(pid):
        if mount.kind == "overlay" and os.path.basename(mount.point) == FOLDER:
            return pid, mount
    raise looking.missing(
        Text(f"an overlay at `{FOLDER}`", f"`{FOLDER}` 上的 overlay"),
        Text("not mounted", "没有挂载"),
        Text("mounted", "已挂载"),
        f"/proc/{pid}/mountinfo",
    )


def _layers(pid: int, mount: looking.Mount) -> tuple[str, list[str]]:
    """The folders of the upper layer and of the lower ones, as they are seen from outside.

    Names in the options are as they were given: relative ones begin in the folder of the mount.
    """
    options = dict(option.partition("=")[::2] for option in mount.options)
    beside = os.path.dirname(mount.point)

    def outside(name: str) -> str:
        return f"/proc/{pid}/root{os.path.join(beside, name)}"

    lower = options.get("lowerdir", "").split(":")
    return outside(options.get("upperdir", "")), [outside(name) for name in lower if name]


def _there(path: str, name: str, *, wanted: bool) -> Fact:
    found = os.path.lexists(path)
    return fact(
        same(name),
        THERE if found else NOT_THERE,
        THERE if wanted else NOT_THERE,
        found == wanted,
        path,
    )
