"""Accounts of an image, read inside by a strict parser and never by the name service, whose
libraries belong to the image (CVE-2019-14271)."""

from __future__ import annotations

import os
import stat

from sandbox_kernel.errors import StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_ACCOUNT_FILE = 1 << 20
LARGEST_ID = 0xFFFFFFFE
MOST_GROUPS = 64


def owner(text: str) -> tuple[int, int]:
    """uid and gid of `--chown=user[:group]`, names or numbers, in the container's own files.

    A number alone is the group too; a name alone has its own group. Raises StepFailed.
    """
    person, colon, group = text.partition(":")
    fields = find("/etc/passwd", lambda found: person == found[0])
    if fields:
        uid, gid = _number(fields[2]), _number(fields[3])
    elif person.isdecimal():
        uid = gid = _number(person)
    elif person == "root":
        uid = gid = 0
    else:
        raise StepFailed("find user", person, "the image's /etc/passwd has no such user", 22)
    if not colon:
        return uid, gid
    found = find("/etc/group", lambda candidate: group == candidate[0])
    if found:
        gid = _number(found[2])
    elif group.isdecimal():
        gid = _number(group)
    elif group == "root":
        gid = 0
    else:
        raise StepFailed("find group", group, "the image's /etc/group has no such group", 22)
    return uid, gid


def groups_of(name: str) -> list[int]:
    """The groups that have an account as a member, but for its own."""
    found: list[int] = []

    def note(fields: list[str]) -> bool:
        if len(fields) > 3 and name in fields[3].split(","):
            found.append(_number(fields[2]))
        return False  # the next one too

    find("/etc/group", note)
    return found[:MOST_GROUPS]


def _number(text: str) -> int:
    number = int(text[:12]) if text.isdecimal() else LARGEST_ID + 1
    if number > LARGEST_ID:
        raise StepFailed("find user", text[:40], "it is above the largest id", 22)
    return number


def find(path: str, matches: Callable[[list[str]], bool]) -> list[str] | None:
    """The first matching line of an account file; a file that is odd or huge has none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        size = min(os.fstat(file).st_size, LONGEST_ACCOUNT_FILE)
        text = os.read(file, size).decode(errors="replace")
    finally:
        os.close(file)
    least = 6 if path.endswith("passwd") else 3
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= least and fields[2].isdecimal() and matches(fields):
            return fields
    return None
