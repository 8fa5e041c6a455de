"""RUN: a program in a container of the stage, and what it changed as a layer."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import fcntl
import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from sandbox_kernel.building import cache, copying, layers, workshop
from sandbox_kernel.building.cache import Result
from sandbox_kernel.building.events import StepOutput
from sandbox_kernel.building.state import State, timestamp
from sandbox_kernel.building.work import Work
from sandbox_kernel.container import Exit, ProcessSpec
from sandbox_kernel.containerfile import mounts
from sandbox_kernel.containerfile.instructions import Run
from sandbox_kernel.containerfile.mounts import RunMount
from sandbox_kernel.errors import BuildFailed, HostLacks, OutOfMemory
from sandbox_kernel.runtime.held import IMAGE_IDS

KEPT_OUTPUT = 8192
SHORTEST_MASKED = 3
PIECE = 1 << 16
SCRIPT = 3
SECONDS_TO_READ = 0.5
Origins = Callable[[str], State]


@dataclass
class _Mounted:
    """What a step gets beside its layers."""

    binds: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    filled: list[tuple[str, State | None, str]] = field(default_factory=list)
    """Folders in memory that are filled before it begins: target, origin, source."""
    owned: list[tuple[str, int, int, int]] = field(default_factory=list)
    secrets: list[bytes] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Of the host, to be taken away as soon as they are mounted."""


def run(
    work: Work, state: State, made: Run, origins: Origins, stage: str, number: int
) -> tuple[Result, bool]:
    """The layer of a RUN, and whether it was there already. Raises BuildFailed and others."""
    resolved = [mounts.resolve(m, state.lookup, work.escape, state.workdir) for m in made.mounts]
    network = _network(work, made)
    argv, script = _argv(state, made)
    environment = {**state.arguments, **state.environment}
    key = cache.key(
        step="run",
        below=state.chain,
        argv=argv,
        script=script.decode("utf-8", "surrogateescape") if script else None,
        environment=environment,
        workdir=state.workdir,
        user=state.user,
        network=network,
        mounts=[_identity(work, mount, origins) for mount in resolved],
        epoch=work.request.epoch,
    )
    found = work.cached(key)
    if found is not None:
        return found, True
    with ExitStack() as stack:
        mounted = _mount(work, stack, resolved, origins)
        with workshop.bench(
            work,
            state.layers,
            mounts=mounted.binds,
            config={"Env": [f"{name}={value}" for name, value in environment.items()]},
            network=network,
            bare=False,
        ) as bench:
            for path in mounted.files:
                os.unlink(path)
            _prepare(work, bench, mounted)
            _execute(work, bench, state, made, (argv, script), mounted, (stage, number))
            layer = bench.layer(work.store, work.request.epoch)
    return work.keep(key, Result(timestamp(work.request.epoch), layer)), False


def _network(work: Work, made: Run) -> str:
    allowed = work.request.plan.network
    if made.network in ("none", allowed):
        return made.network
    if made.network == "default":
        return allowed
    raise made.place.error(
        f"`--network={made.network}`: this build has the network `{allowed}`, and networks of "
        "builds come with a later version: copy what is needed into the context"
    )


def _argv(state: State, made: Run) -> tuple[list[str], bytes | None]:
    """The words to execute; and a script that they are to read, when it names its interpreter."""
    if not made.command.shell:
        return list(made.command.words), None
    (text,) = made.command.words
    if len(made.documents) == 1 and text == made.documents[0].mark:
        content = made.documents[0].content
        if content.startswith("#!"):
            return [f"/proc/self/fd/{SCRIPT}"], content.encode("utf-8", "surrogateescape")
        return [*state.shell, content], None
    for document in made.documents:
        text += f"\n{document.content}{document.name}"
    return [*state.shell, text + "\n" if made.documents else text], None


def _identity(work: Work, mount: RunMount, origins: Origins) -> Any:
    """What of a mount counts for the cache: never a secret, never what a cache holds."""
    basic = [mount.kind, mount.target, mount.read_only]
    if mount.kind == "bind":
        origin = origins(mount.origin) if mount.origin is not None else None
        if origin is not None:
            return [*basic, origin.chain, mount.source]
        seen = work.context().fingerprint([mount.source.lstrip("/")], None, parents=False)
        return [*basic, seen]
    return [*basic, mount.id, mount.size, mount.mode, mount.uid, mount.gid, mount.env]


def _mount(work: Work, stack: ExitStack, resolved: list[RunMount], origins: Origins) -> _Mounted:
    mounted = _Mounted()
    for mount in sorted(resolved, key=lambda each: each.target.count("/")):
        if mount.kind == "tmpfs":
            _add_tmpfs(mounted, mount.target, mount.size)
        elif mount.kind == "secret":
            _add_secret(work, stack, mounted, mount)
        elif mount.kind == "cache":
            _add_cache(work, stack, mounted, mount)
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


def _add_tmpfs(mounted: _Mounted, target: str, size: int | None) -> None:
    options = ["nosuid", "nodev", "mode=0755"] + ([f"size={size}"] if size else [])
    mounted.binds.append(
        {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}
    )


def _add_secret(work: Work, stack: ExitStack, mounted: _Mounted, mount: RunMount) -> None:
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


def _add_cache(work: Work, stack: ExitStack, mounted: _Mounted, mount: RunMount) -> None:
    """A folder that stays between builds of one context; its name is hashed (CVE-2024-9675)."""
    if mount.origin is not None or mount.source != "/":
        mount.place.fail("a cache begins empty: `from` and `source` are for `type=bind`")
    context = work.request.context or os.getcwd()
    name = hashlib.sha256(f"{os.path.realpath(context)}\0{mount.id}".encode()).hexdigest()
    folder = f"{work.store.root}/builds/caches/{name}"
    lock = _lock(folder, mount.sharing)
    if lock is None:  # `private`, and another one has it
        folder = f"{folder}-{os.urandom(6).hex()}"
        lock = _lock(folder, "locked")
    assert lock is not None
    stack.callback(os.close, lock)
    tree = f"{folder}/tree"
    with contextlib.suppress(FileExistsError):
        os.mkdir(tree, 0o755)
    if mount.uid or mount.gid or mount.mode is not None:
        mode = 0o755 if mount.mode is None else mount.mode
        mounted.owned.append((mount.target, mount.uid, mount.gid, mode))
    mounted.binds.append(_bind(mount.target, tree, "ro" if mount.read_only else "rw"))


def _lock(folder: str, sharing: str) -> int | None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if sharing == "private":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return None
        else:
            fcntl.flock(lock, fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX)
    except BaseException:
        os.close(lock)
        raise

    return lock


def _prepare(work: Work, bench: workshop.Bench, mounted: _Mounted) -> None:
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


def _execute(
    work: Work,
    bench: workshop.Bench,
    state: State,
    made: Run,
    program: tuple[list[str], bytes | None],
    mounted: _Mounted,
    step: tuple[str, int],
) -> None:
    """Run it to its end, passing on what it writes. Raises BuildFailed for a bad end."""
    argv, script = program
    with ExitStack() as stack:
        inside: dict[int, int] = {}
        if script is not None:
            file = os.memfd_create("script", os.MFD_CLOEXEC)
            stack.callback(os.close, file)
            os.fchmod(file, 0o755)
            os.write(file, script)
            inside[SCRIPT] = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, inside[SCRIPT])
        spec = ProcessSpec(
            argv=tuple(argv),
            env=mounted.environment,
            cwd=state.workdir,
            user=state.user or None,
            root_only=True,
            descriptors=inside,
            timeout=work.request.plan.timeout,
        )
        ended, output = _follow(work, bench, spec, mounted.secrets, step)
    if ended.reason == "exited" and ended.status == 0:
        return
    failure = ended.error()
    if failure is not None:
        why = str(failure)
    elif ended.signal is not None:
        why = f"it was ended by signal {ended.signal}"
    else:
        why = f"it ended with status {ended.status}"
    raise BuildFailed(
        made.place, made.text.split("\n", 1)[0], why, status=ended.shell_status, output=output
    ) from (failure if isinstance(failure, OutOfMemory) else None)


def _follow(
    work: Work,
    bench: workshop.Bench,
    spec: ProcessSpec,
    secrets: list[bytes],
    step: tuple[str, int],
) -> tuple[Exit, str]:
    """Start it, pass on what it writes until it ends; its exit and the end of its output."""
    last: deque[str] = deque()
    size = 0
    lock = threading.Lock()

    def read(stream: int, source: int) -> None:
        nonlocal size
        for text in _masked(source, secrets):
            with lock:
                last.append(text)
                size += len(text)
                while size > KEPT_OUTPUT and len(last) > 1:
                    size -= len(last.popleft())
            work.tell(StepOutput(*step, stream, text))

    with ExitStack() as stack:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        for source, _ in pipes:
            stack.callback(os.close, source)
        ends = {stream: end for stream, (_, end) in enumerate(pipes, 1)}
        try:
            inside = {**spec.descriptors, **ends}
            process = bench.container.run(dataclasses.replace(spec, descriptors=inside))
        finally:
            for end in ends.values():
                os.close(end)
        stack.callback(process.close)
        stack.callback(work.on_stop(lambda: bench.container.kill("the build was stopped")))
        readers = [
            threading.Thread(target=read, args=(stream, source), daemon=True)
            for stream, (source, _) in enumerate(pipes, 1)
        ]
        for reader in readers:
            reader.start()
        ended = process.wait()
        for reader in readers:
            reader.join(SECONDS_TO_READ)
            if reader.is_alive():  # a process that it left still holds the pipe
                bench.end_others()
                reader.join()
    return ended, "".join(last)


def _masked(source: int, secrets: list[bytes]) -> Iterator[str]:
    """What comes from a pipe as text, with the values of secrets taken out, across its pieces."""
    hidden = [part for value in secrets for part in _lines(value)]
    longest = max((len(part) for part in hidden), default=0)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held = b""
    while data := os.read(source, PIECE):
        held += data
        for part in hidden:
            held = held.replace(part, b"***")
        # The end may be the beginning of a secret, unless it is the end of a line.
        cut = len(held) if not longest or held.endswith(b"\n") else max(0, len(held) - longest)
        if text := decoder.decode(held[:cut]):
            yield text
        held = held[cut:]
    if text := decoder.decode(held, final=True):
        yield text


def _lines(value: bytes) -> list[bytes]:
    found = [value.strip(), *(line.strip() for line in value.splitlines())]
    return sorted({part for part in found if len(part) >= SHORTEST_MASKED}, key=len, reverse=True)
