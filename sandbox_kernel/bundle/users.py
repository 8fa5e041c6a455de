"""Who the payload is: `uid[:gid]` or names, looked up in the image's own passwd and group."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sandbox_kernel.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_kernel.bundle.oci import User


class Accounts(NamedTuple):
    """The text of the image's /etc/passwd and /etc/group; empty when it has none."""

    passwd: str = ""
    group: str = ""


def resolve(wanted: str, accounts: Accounts | None) -> tuple[User, str | None]:
    """A user and his home folder, as docker reads `--user`.

    A number needs no entry; then the group is 0 and the home is `/`. With no accounts to look in
    the home is not known, and anything but numbers is left as `username`. Raises InvalidOption.
    """
    name, _, group_name = wanted.partition(":")
    if accounts is None:
        if name.isdigit() and (not group_name or group_name.isdigit()):
            group_id = _number(group_name or "0")
            return {"uid": _number(name), "gid": group_id, "additionalGids": []}, None
        return {"uid": 0, "gid": 0, "additionalGids": [], "username": wanted}, None
    entry = next((e for e in _entries(accounts.passwd, 7) if name in (e[0], e[2])), None)
    if entry is not None:
        uid, gid, home = _number(entry[2]), _number(entry[3]), entry[5] or "/"
    elif name.isdigit():
        uid, gid, home = _number(name), 0, "/root" if _number(name) == 0 else "/"
    elif name == "root":
        uid, gid, home = 0, 0, "/root"
    else:
        raise InvalidOption("--user", wanted, "a number, or a name of the image's /etc/passwd")
    more: list[int] = []
    if group_name:
        gid = _group(wanted, group_name, accounts)
    elif entry is not None:
        member_of = [e for e in _entries(accounts.group, 4) if entry[0] in e[3].split(",")]
        more = sorted({_number(e[2]) for e in member_of} - {gid})
    return {"uid": uid, "gid": gid, "additionalGids": more}, home


def _group(wanted: str, name: str, accounts: Accounts) -> int:
    if name.isdigit():
        return _number(name)
    for entry in _entries(accounts.group, 4):
        if entry[0] == name:
            return _number(entry[2])
    if name == "root":
        return 0
    raise InvalidOption("--user", wanted, "a group number, or a name of the image's /etc/group")


def _entries(text: str, fields: int) -> Iterator[list[str]]:
    """The lines that have all fields and sane numbers; the file is the image's, so not trusted."""
    numbers = slice(2, 4 if fields == 7 else 3)
    for line in text.splitlines():
        entry = line.split(":")
        if len(entry) == fields and all(f.isascii() and f.isdigit() for f in entry[numbers]):
            yield entry


def _number(text: str) -> int:
    number = int(text[:12])
    if number > 0xFFFFFFFE:
        raise InvalidOption("--user", text, "a number below 4294967295")
    return number
