"""What a RUN gets by its mounts: caches, secrets, folders in memory, files of others."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from msgspec import Struct, field

from sandbox_kernel.building import copying, layers, workshop
from sandbox_kernel.building.events import Notice
from sandbox_kernel.building.state import State
from sandbox_kernel.building.work import Work
from sandbox_kernel.containerfile.mounts import RunMount
from sandbox_kernel.errors import HostLacks
from sandbox_kernel.runtime.held import IMAGE_IDS

Origins = Callable[[str], State]
STRICTEST = ("locked", "private", "shared")
"""Ways to share a cache; a step that mounts one cache twice gets the strictest that it asks for."""
AGAIN_SECONDS = 0.05
"""Between two looks whether a cache that others have is free."""


class Mounted(Struct):
    """What a step gets beside its layers."""

    binds: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    filled: list[tuple[str, State | None, str]] = field(default_factory=list)
    """Folders in memory that are filled before it begins: target, origin, source."""
    owned: list[tuple[str, int, int, int]] = field(default_factory=list)
    secrets: list[bytes] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Of the host, to be taken away as soon as they are mounted."""


def mount_all(work: Work, stack: ExitStack, resolved: list[RunMount], origins: Origins) -> Mounted:
    """Everything that the mounts of one RUN need; the stack takes it back. Raises ImageError."""
    mounted = Mounted()
    caches = _hold_caches(work, stack, resolved)
    for mount in sorted(resolved, key=lambda each: each.target.count("/")):
        if mount.kind == "tmpfs":
            _add_tmpfs(mounted, mount.target, mount.size)
        elif mount.kind == "secret":
            _add_secret(work, stack, mounted, mount)
        elif mount.kind == "cache":
            _add_cache(caches[mount.id], mounted, mount)
        else:
            origin = origins(mount.origin) if mount.origin is not None else None
            if mount.read_only:
                layer, path = copying.snapshot(work, origin, mount.source)
                source = f"{layers.tree(work.store, layer)}/{path}"
                mounted.binds.append(_bind(mount.target, source, "ro"))
            else:  # what is written there is dropped
                _add_tmpfs(mounted, mount.target, None)
                mounted.filled.append((mount.target, origin, mount.source))
    return mounted


def _bind(target: str, source: str, access: str) -> dict[str, Any]:
    options = ["rbind", "rprivate", "nosuid", "nodev", IMAGE_IDS, access]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _add_tmpfs(mounted: Mounted, target: str, size: int | None) -> None:
    options = ["nosuid", "nodev", "mode=0755"] + ([f"size={size}"] if size else [])
    mounted.binds.append(
        {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}
    )


def _add_secret(work: Work, stack: ExitStack, mounted: Mounted, mount: RunMount) -> None:
    """A file that only this step sees. It has no name outside once the container is made."""
    data = work.request.secrets.get(mount.id)
    if data is None:
        if mount.required:
            mount.place.fail(f"the secret `{mount.id}` is required: give it by --secret id=...")
        return
    mounted.secrets.append(data)
    if mount.env is not None:
        mounted.environment[mount.env] = data.decode("utf-8", "surrogateescape")
        if not mount.target:
            return
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="build-", dir=_memory()))
    path = os.path.join(os.path.realpath(folder), "secret")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, data)
        if os.geteuid() == 0:
            os.fchown(file, mount.uid, mount.gid)
        elif mount.uid or mount.gid:
            raise HostLacks(
                f"give the secret `{mount.id}` to user {mount.uid}: only root's builds can: "
                "leave `uid` and `gid` away"
            )
        os.fchmod(file, 0o400 if mount.mode is None else mount.mode)
    finally:
        os.close(file)
    mounted.files.append(path)
    mounted.binds.append(_bind(mount.target, path, "ro"))


def _memory() -> str:
    """A folder in memory, so that a secret is never written to a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()  # noqa: S108


def _hold_caches(work: Work, stack: ExitStack, resolved: list[RunMount]) -> dict[str, str]:
    """The folder of each cache of one RUN by its id, locked until the stack is left.

    Each is locked once, in the order of their ids, however the mounts are written: no step waits
    for itself, and no two for each other. Raises ContainerfileError.
    """
    asked: dict[str, set[str]] = {}
    for mount in resolved:
        if mount.kind != "cache":
            continue
        if mount.origin is not None or mount.source != "/":
            mount.place.fail("a cache begins empty: `from` and `source` are for `type=bind`")
        asked.setdefault(mount.id, set()).add(mount.sharing)
    return {
        id_: _hold_cache(work, stack, id_, next(each for each in STRICTEST if each in asked[id_]))
        for id_ in sorted(asked)
    }


def _hold_cache(work: Work, stack: ExitStack, id_: str, sharing: str) -> str:
    """A folder that stays between builds of one context; its name is hashed (CVE-2024-9675)."""
    context = work.request.context or os.getcwd()
    name = hashlib.sha256(f"{os.path.realpath(context)}\0{id_}".encode()).hexdigest()
    first = folder = f"{work.store.root}/builds/caches/{name}"
    number = 1
    while (lock := _lock(work, id_, folder, sharing)) is None:  # `private`, and another step has it
        number += 1  # not a random name: that one would stay, and nobody would find it again
        folder = f"{first}-{number}"
    stack.callback(os.close, lock)
    return folder


def _add_cache(folder: str, mounted: Mounted, mount: RunMount) -> None:
    tree = f"{folder}/tree"
    with contextlib.suppress(FileExistsError):
        os.mkdir(tree, 0o755)
    if mount.uid or mount.gid or mount.mode is not None:
        mode = 0o755 if mount.mode is None else mount.mode
        mounted.owned.append((mount.target, mount.uid, mount.gid, mode))
    mounted.binds.append(_bind(mount.target, tree, "ro" if mount.read_only else "rw"))


def _lock(work: Work, id_: str, folder: str, sharing: str) -> int | None:
    """The folder of a cache, locked; None for a `private` one that another step has.

    Waits for others as long as the build is not stopped. Raises Killed.
    """
    kind = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
    told = False
    while True:
        work.check()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if sharing == "private":
                    return None
                if not told:
                    work.tell(Notice(f"waits for the cache `{id_}`, which another step has"))
                told = True
                work.pause(AGAIN_SECONDS)
                continue
            if os.path.samestat(os.stat(folder), os.fstat(lock)):  # else `prune` removed it
                stack.pop_all()
                return lock


def prepare(work: Work, bench: workshop.Bench, mounted: Mounted) -> None:
    """Fill what has to be filled, and give away what belongs to others. Raises StepFailed."""
    for path in mounted.files:  # mounted by now: their names are not needed any more
        os.unlink(path)
    for target, uid, gid, mode in mounted.owned:
        bench.own(target, uid, gid, mode)
    for target, origin, source in mounted.filled:
        order = {"destination": f"{target}/", "owner": None, "mode": None, "mounted": True}
        patterns = [source]

        def from_context(sink: int, patterns: list[str] = patterns) -> None:
            context = work.context()
            seen = context.fingerprint(patterns, None, parents=False)
            context.write(patterns, None, sink, parents=False, expected=seen)

        if origin is None:
            bench.place(order, from_context)
            continue
        with workshop.bench(work, origin.layers) as other:

            def from_stage(
                sink: int, other: workshop.Bench = other, patterns: list[str] = patterns
            ) -> None:
                other.gather({"patterns": patterns, "excluded": [], "parents": False}, sink)

            bench.place(order, from_stage)
