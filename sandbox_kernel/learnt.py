"""Filters of system calls that the user has learnt and saved, by name: files beside his settings.

A filter is a list of calls. It only takes away from the one that every container has, whatever
stands in it. Who may use one is said in `policy`; how it is learnt, in `container.recording`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

from . import settings_files
from .errors import SandboxError, StepFailed, shown

LARGEST = 64 << 10
MOST_CALLS = 600
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"
_CALL = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_IMAGE = "image-"


class Learnt(NamedTuple):
    """One filter. `learnt_from`: images and programs, for people."""

    name: str
    calls: tuple[str, ...]
    learnt_from: tuple[str, ...] = ()


def folder() -> str:
    """Where they are."""
    return os.path.join(os.path.dirname(settings_files.user_configuration()), "seccomp")


def of_image(digest: str) -> str:
    """The name of the filter that `--strict` takes for an image."""
    return _IMAGE + digest.removeprefix("sha256:")


def names() -> list[str]:
    """Those that are there."""
    try:
        found = os.listdir(folder())
    except FileNotFoundError:
        return []
    return sorted(name[:-5] for name in found if re.fullmatch(NAME + r"\.json", name))


def find(name: str) -> Learnt | None:
    """The filter of a name; None when there is none. Raises StepFailed for one that is damaged."""
    path = _path(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error.strerror or "it can't be opened") from error
    with open(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
            raise _unusable(path, "it is no file that only you can write")
        data = file.read(LARGEST + 1)
    return decode(data, name)


def decode(data: bytes, name: str) -> Learnt:
    """A filter as a file has it. Raises StepFailed for all that it must not be."""
    path = _path(name)
    if len(data) > LARGEST:
        raise _unusable(path, f"it is larger than {LARGEST} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"it is no JSON: {error}") from None
    calls = found.get("calls") if isinstance(found, dict) else None
    sources = found.get("learnt_from", []) if isinstance(found, dict) else None
    for words in (calls, sources):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise _unusable(path, "it holds no `calls`, a list of names")
    assert isinstance(calls, list) and isinstance(sources, list)
    if not 0 < len(calls) <= MOST_CALLS or not all(_CALL.fullmatch(call) for call in calls):
        raise _unusable(path, "its `calls` are no names of system calls")
    return Learnt(name, tuple(sorted(set(calls))), tuple(sources))


def save(name: str, calls: Iterable[str], learnt_from: str) -> Learnt:
    """Adds calls to the filter of a name, which is made when there is none. Raises StepFailed."""
    before = find(name) or Learnt(name, ())
    sources = tuple(dict.fromkeys((*before.learnt_from, learnt_from)))[-20:]
    made = Learnt(name, tuple(sorted({*before.calls, *calls})), sources)
    path = _path(name)
    data = json.dumps({"calls": made.calls, "learnt_from": sources}, indent=1).encode()
    try:
        os.makedirs(folder(), mode=0o700, exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data + b"\n")
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise StepFailed("save", path, error.strerror or "it failed", error.errno or 0) from error
    return made


def forget(name: str) -> bool:
    """Removes a filter; False when there was none."""
    try:
        os.unlink(_path(name))
    except FileNotFoundError:
        return False
    return True


def _path(name: str) -> str:
    assert re.fullmatch(NAME, name), name
    return f"{folder()}/{name}.json"


def _unusable(path: str, why: str) -> SandboxError:
    remedy = "learn it again by `sandbox-kernel learn-seccomp`, or remove it"
    return StepFailed("read", path, f"{shown(why)}: {remedy}")
