"""Checks of chapter 5: the namespaces and the root of a process that was started by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text, same

KINDS = ("user", "mnt", "pid", "net", "uts", "ipc")
NOT_THERE = ("/etc", "/home")


def boxed(variables: Variables) -> Iterator[Fact]:
    """A process in namespaces of its own."""
    pid = looking.process(variables, "boxed")
    yield from own_namespaces(pid, KINDS)


def rooted(variables: Variables) -> Iterator[Fact]:
    """A process with a root of its own."""
    pid = looking.process(variables, "rooted")
    yield from own_namespaces(pid, ("user", "mnt", "pid"))
    root = [mount for mount in looking.mounts(pid) if mount.point == "/"]
    ours = os.stat("/")
    try:
        theirs = os.stat(f"/proc/{pid}/root{os.sep}")
    except OSError as error:
        why = error.strerror or str(error)
        raise looking.missing(
            Text("its root", "它的根"), same(why), Text("readable", "可以读"), f"/proc/{pid}/root"
        ) from error
    yield fact(
        Text("its root", "它的根"),
        ", ".join(mount.kind for mount in root) or "-",
        Text("not the machine's", "不是这台机器的根"),
        (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino),
        f"/proc/{pid}/root",
    )
    for name in NOT_THERE:
        there = os.path.lexists(f"/proc/{pid}/root{name}")
        yield fact(
            same(name),
            Text("there", "存在") if there else Text("not there", "不存在"),
            Text("not there", "不存在"),
            not there,
            f"/proc/{pid}/root{name}",
        )
    numbers = looking.status(pid).get("NSpid", "").split()
    yield fact(
        Text("its number in its own namespace", "它在自己的命名空间里的编号"),
        numbers[-1] if len(numbers) > 1 else "-",
        same("1"),
        len(numbers) > 1 and numbers[-1] == "1",
        f"/proc/{pid}/status",
    )
    own = [mount for mount in looking.mounts(pid) if (mount.point, mount.kind) == ("/proc", "proc")]
    yield fact(
        same("/proc"),
        str(len(own)),
        Text("mounted once", "挂载了一次"),
        len(own) == 1,
        f"/proc/{pid}/mountinfo",
    )


def own_namespaces(pid: int, kinds: tuple[str, ...]) -> Iterator[Fact]:
    """That a process shares none of these with the notebook."""
    ours, theirs = looking.namespaces(os.getpid()), looking.namespaces(pid)
    for kind in kinds:
        yield fact(
            same(kind),
            str(theirs[kind]),
            Text(f"not {ours[kind]}, which is ours", f"不是我们的 {ours[kind]}"),
            theirs[kind] != ours[kind],
            f"/proc/{pid}/ns/{kind}",
        )
