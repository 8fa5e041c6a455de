"""Containers of all programs of this user: listing them, and finding one by name or id."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sandbox_kernel import errors, policy
from sandbox_kernel.container.container import Container
from sandbox_kernel.image import Image
from sandbox_kernel.records import Record
from sandbox_kernel.runtime import client

LEAST_OF_AN_ID = 4


class Listed(Record):
    """A container as its launcher lists it."""

    id: str
    name: str
    state: str
    """starting, running, ending; ended, when it is kept for its log."""
    image: str
    command: tuple[str, ...]
    """Of the process that it was made for; empty for one that is held for many."""
    program: str
    """The program that asked for it."""
    created: float
    """Seconds since the epoch."""
    pid: int | None
    runs: int
    """How many processes were started in it that go on."""
    exit: Mapping[str, Any] | None
    """status, signal and reason of the process that ended last."""
    folder: str
    """Of its launcher."""


def list_all() -> list[Listed]:
    """All containers of this user, the oldest first."""
    listed = [_listed(folder, row) for folder, row in _rows()]
    return sorted(listed, key=lambda each: each.created)


def find(reference: str) -> Container:
    """The container of this name, id, or beginning of one id. Raises NoSuchContainer.

    What the caller may do with it is what its maker may; closing it does not end it.
    """
    listed = match(reference)
    connect = functools.partial(client.open_control, listed.folder)
    channel = connect()
    try:
        found = channel.request("inspect", {"container": listed.id})
    finally:
        channel.close()
    about = found["about"]
    try:
        plan = policy.recorded(found["plan"])
    except (KeyError, TypeError):  # another version made it: it can be looked at, and ended
        plan = policy.ContainerPlan(image=about["image"])
    return Container(
        container_id=listed.id,
        name=listed.name,
        plan=plan,
        resolved=Image(about["image"], about["digest"], tuple(about.get("layers", ()))),
        pid=found["pid"],
        limits=found.get("limits") or {},
        groups=found["groups"],
        connect=connect,
        base=found.get("process") or {},
        not_in_force=tuple(about["not_in_force"]),
    )


def inspect(reference: str) -> dict[str, Any]:
    """Everything that is known about a container, as JSON can hold it. Raises NoSuchContainer."""
    listed = match(reference)
    channel = client.open_control(listed.folder)
    try:
        found = channel.request("inspect", {"container": listed.id})
    finally:
        channel.close()
    del found["event"], found["ready"]
    return {**found.pop("about"), **found, "name": listed.name, "launcher": listed.folder}


def refuse_taken(name: str) -> None:
    """Raises InvalidOption when a container of this user has the name already."""
    if any(each.name == name for each in list_all()):
        allowed = f"a name that is free: `sandbox-kernel rm {name}` removes the one that has it"
        raise errors.InvalidOption("--name", name, allowed)


def match(reference: str) -> Listed:
    """The one container that a name, an id or the beginning of an id stands for."""
    everything = list_all()
    same = [each for each in everything if reference in (each.id, each.name)]
    if not same and len(reference) >= LEAST_OF_AN_ID:
        same = [each for each in everything if each.id.startswith(reference)]
    named = errors.shown(reference)
    if not same:
        raise errors.NoSuchContainer(
            f"find container `{named}`: no container of yours has this name or id: "
            "`sandbox-kernel ps --all` lists them"
        )
    if len(same) > 1:
        ids = ", ".join(each.id for each in same)
        raise errors.NoSuchContainer(
            f"find container `{named}`: it stands for {len(same)} of them: name one of {ids}"
        )
    return same[0]


def _rows() -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for folder in client.control_folders():
        with suppress(errors.LauncherGone, TimeoutError):  # it ended while we looked
            channel = client.open_control(folder)
            try:
                answer = channel.request("list", {})
            finally:
                channel.close()
            # A launcher that was started before an upgrade lives on with its containers.
            rows += [(folder, row) for row in answer["containers"] if "state" in row]
    return rows


def _listed(folder: str, row: Mapping[str, Any]) -> Listed:
    about = row["about"]
    return Listed(
        id=row["id"],
        name=row["name"] or row["id"],
        state=row["state"],
        image=about["image"],
        command=tuple(about["command"]),
        program=about["program"],
        created=row["created"],
        pid=row["pid"],
        runs=len(row["runs"]),
        exit=row["exit"],
        folder=folder,
    )
