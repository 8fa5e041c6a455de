"""The record of what ran: lines of JSON that are only added to, off unless the user turns it on.

A run has two lines, `start` before any of its code runs and `end` when it is over, with the same
`run`; one whose end is missing was killed with whoever waited for it. What did not start because it
may not, or can't, has one line, `refused`. The file lies in `$XDG_STATE_HOME/sandbox-kernel/audit`,
for its user alone; a full one is put aside under its time, and the oldest ones are removed.

Who turned the record on wants it: a run whose first line can't be written does not start.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from . import errors, policy, settings
from .grammar import AUDIT_CONTENT, AUDIT_OFF
from .linux import writing

if TYPE_CHECKING:
    from .policy import ContainerPlan

MOST_BYTES = 16 << 20
MOST_FILES = 8
MOST_CONTENT = 1 << 20
MOST_LINE = 4 << 20
FOLDER_VARIABLE = "XDG_STATE_HOME"
NAME = "audit.jsonl"
LOCK = "lock"


class Entry:
    """A run that was begun in the record; `end` completes it, once."""

    def __init__(self, path: str, run: str) -> None:
        self._path = path
        self._run = run
        self._began = time.monotonic()
        self._over = False

    def end(
        self,
        *,
        status: int | None = None,
        error: str | None = None,
        usage: Mapping[str, Any] | None = None,
        container: str = "",
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        """How it ended. A line that can't be written is told on standard error: it has run."""
        if self._over:
            return
        self._over = True
        seconds = round(time.monotonic() - self._began, 6)
        line = {
            "kind": "end", "run": self._run, "container": container, "status": status,
            "error": error, "seconds": seconds, "usage": dict(usage or {}),
            "limits": dict(limits or {}),
        }  # fmt: skip
        try:
            _append(self._path, line)
        except errors.StepFailed as problem:
            print(f"sandbox-kernel: {problem}", file=sys.stderr)

    def refuse(self, problem: BaseException) -> None:
        """It was begun in the record and then could not start."""
        self.end(error=f"{type(problem).__name__}: {problem}"[:4096])
        _mark(problem)


def begin(
    plan: ContainerPlan,
    *,
    by: str,
    digest: str = "",
    code: str | None = None,
    argv: tuple[str, ...] = (),
    container: str = "",
    limits: Mapping[str, Any] | None = None,
) -> Entry | None:
    """Writes that this is about to run; None where there is no record.

    Raises StepFailed when the line can't be written: then it must not run.
    """
    if plan.audit == AUDIT_OFF:
        return None
    run = secrets.token_hex(8)
    content = code if code is not None else "\0".join(argv)
    line: dict[str, Any] = {
        "kind": "start", "run": run, **_who(by),
        "cell": hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest(),
        "program": argv[0] if argv else None,
        "image": plan.image, "digest": digest, "container": container, "plan": _plan(plan),
        "limits": dict(limits or {}),
    }  # fmt: skip
    if plan.audit == AUDIT_CONTENT:
        line["content"] = content[:MOST_CONTENT]
    path = place()
    _append(path, line)
    return Entry(path, run)


def refused(problem: BaseException, *, by: str) -> None:
    """Writes what did not start, and why, where the user's settings ask for a record."""
    if not isinstance(problem, errors.SandboxError) or isinstance(problem, errors.CellFailed):
        return
    if getattr(problem, _MARK, False):
        return
    _mark(problem)
    try:
        wanted = level() != AUDIT_OFF
    except (errors.SandboxError, OSError):
        return  # settings that can't be read are told of by whoever was refused
    if not wanted:
        return
    try:
        line = {"kind": "refused", **_who(by), "error": type(problem).__name__}
        _append(place(), {**line, "why": str(problem)[:4096]})
    except (errors.SandboxError, OSError) as why:
        print(f"sandbox-kernel: {why}", file=sys.stderr)


_MARK = "_in_the_record"


def _mark(problem: BaseException) -> None:
    """It passes several places that would write it down."""
    setattr(problem, _MARK, True)


@contextmanager
def refusals(by: str) -> Iterator[None]:
    """What is raised in the block, and stops something from starting, is written down."""
    try:
        yield
    except errors.SandboxError as problem:
        refused(problem, by=by)
        raise


def level() -> str:
    """What the user's own settings say about the record."""
    found = AUDIT_OFF
    for layer in settings.load().layers:
        if not layer.bound:
            found = layer.values.get("audit") or found
    return str(found)


def place() -> str:
    """The path of the file that is added to."""
    state = os.environ.get(FOLDER_VARIABLE, "")
    home = os.path.expanduser("~")
    base = state if os.path.isabs(state) else f"{home}/.local/state"
    return f"{base}/sandbox-kernel/audit/{NAME}"


def lines(path: str | None = None) -> Iterator[dict[str, Any]]:
    """All that was written and is still there, oldest first. A damaged line is passed over."""
    path = path or place()
    folder = os.path.dirname(path)
    try:
        names = sorted(name for name in os.listdir(folder) if _is_aside(name))
    except FileNotFoundError:
        return
    for name in (*names, NAME):
        with suppress(FileNotFoundError), open(f"{folder}/{name}", "rb") as file:
            for raw in file:
                with suppress(ValueError, RecursionError):
                    found = json.loads(raw)
                    if isinstance(found, dict):
                        yield found


def runs() -> Iterator[dict[str, Any]]:
    """Each run with how it `ended` (None: it has not, or was killed), and each refusal, by time."""
    open_runs: dict[str, dict[str, Any]] = {}
    order: list[dict[str, Any]] = []
    for line in lines():
        kind, run = line.get("kind"), line.get("run")
        if kind == "start" and isinstance(run, str):
            open_runs[run] = {**line, "ended": None}
            order.append(open_runs[run])
        elif kind == "end" and run in open_runs:
            open_runs.pop(run)["ended"] = line
        elif kind == "refused":
            order.append(line)
    yield from order


def _who(by: str) -> dict[str, Any]:
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return {
        "by": by, "user": name, "uid": uid, "pid": os.getpid(), "folder": _folder(),
        "notebook": os.environ.get(settings.NOTEBOOK_VARIABLE) or None,
    }  # fmt: skip


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _plan(plan: ContainerPlan) -> dict[str, Any]:
    """The plan as it is kept with a container, of variables only the names: some are secrets."""
    made = policy.record(plan)
    options = made["options"]
    if "env" in options:
        options["env"] = [name for name, _ in options["env"]]
    return {"options": options, "sources": made["sources"]}


def _append(path: str, line: Mapping[str, Any]) -> None:
    """One whole line at the end of the file, whoever else writes. Raises StepFailed."""
    stamped = {"time": round(time.time(), 6), **line}
    data = json.dumps(stamped, ensure_ascii=True, default=str).encode() + b"\n"
    if len(data) > MOST_LINE:
        stamped.pop("content", None)
        data = json.dumps(stamped, ensure_ascii=True, default=str).encode()[:MOST_LINE] + b"\n"
    try:
        with _locked(path) as folder:
            file = os.open(NAME, _FLAGS, 0o600, dir_fd=folder)
            try:
                seen = os.fstat(file)
                _refuse_foreign(seen, path)
                if seen.st_size and seen.st_size + len(data) > MOST_BYTES:
                    os.close(file)
                    file = -1
                    _put_aside(folder)
                    file = os.open(NAME, _FLAGS, 0o600, dir_fd=folder)
                _write(file, data)
            finally:
                if file >= 0:
                    os.close(file)
    except OSError as problem:
        why = f"{problem.strerror}: mend it, or set `audit` to off in your settings"
        raise errors.StepFailed("write the record", path, why, problem.errno or 0) from problem


_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def _write(file: int, data: bytes) -> None:
    """All of it or nothing. After half a line of one who was killed it begins a new one."""
    size = os.fstat(file).st_size
    ended = not size or os.pread(file, 1, size - 1) == b"\n"
    try:
        writing.whole(file, data if ended else b"\n" + data)
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, size)
        raise


@contextmanager
def _locked(path: str) -> Iterator[int]:
    """The folder, which nobody else of ours writes in meanwhile."""
    folder = os.path.dirname(path)
    os.makedirs(folder, 0o700, exist_ok=True)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        seen = os.fstat(directory)
        if seen.st_uid != os.getuid() or seen.st_mode & 0o077:
            why = "it must be a folder of yours that nobody else may enter (mode 0700)"
            raise errors.StepFailed("write the record", folder, why)
        lock = os.open(LOCK, _FLAGS & ~os.O_APPEND, 0o600, dir_fd=directory)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
        finally:
            os.close(lock)
    finally:
        os.close(directory)


def _refuse_foreign(seen: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_nlink != 1:
        raise errors.StepFailed("write the record", path, "it must be a file of yours alone")


def _put_aside(folder: int) -> None:
    """The full file under the time of now, and no more than so many of them.

    The newest is always the last by its name, or a clock that went back would have it removed.
    """
    kept = sorted(name for name in os.listdir(folder) if _is_aside(name))
    last = re.search("[0-9]+", kept[-1]) if kept else None
    name = f"audit-{max(time.time_ns(), int(last[0]) + 1 if last else 0):020d}.jsonl"
    os.rename(NAME, name, src_dir_fd=folder, dst_dir_fd=folder)
    for old in [*kept, name][: -(MOST_FILES - 1)]:
        os.unlink(old, dir_fd=folder)


def _is_aside(name: str) -> bool:
    return name.startswith("audit-") and name.endswith(".jsonl")
