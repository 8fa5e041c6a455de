"""What can be observed: a `Container` of this program, or one that any program of this user holds.

The second kind is found by its name or id, as `%%container --name work --keep` gave it; it can be
looked at, nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from sandbox_kernel import errors
from sandbox_kernel.runtime import client


class Observed(Protocol):
    """The part of `Container` that looking at it needs."""

    name: str
    pid: int

    def limits(self) -> dict[str, Any]:
        """The limits in force, read back from the kernel now."""

    def cgroup_paths(self) -> dict[str, str]:
        """Controller to the directory of its group."""

    def open_writable(self) -> tuple[int, bool]:
        """A descriptor of the writable layer, the caller's, and whether it lies over layers."""


class Named:
    """A container in somebody's launcher."""

    def __init__(self, folder: str, row: Mapping[str, Any]) -> None:
        self.id: str = row["id"]
        self.name: str = row["name"] or row["id"]
        self.pid: int = row["pid"]
        self._groups: dict[str, str] = dict(row["groups"])
        self._folder = folder

    def limits(self) -> dict[str, Any]:
        """See `Observed`. Raises NoSuchContainer, LauncherGone."""
        channel = client.open_control(self._folder)
        try:
            limits: dict[str, Any] = channel.request("limits", {"container": self.id})["limits"]
        finally:
            channel.close()
        return limits

    def cgroup_paths(self) -> dict[str, str]:
        """See `Observed`."""
        return dict(self._groups)

    def open_writable(self) -> tuple[int, bool]:
        """See `Observed`. Raises NoSuchContainer, LauncherGone."""
        channel = client.open_control(self._folder)
        try:
            channel.ask("writable", {"container": self.id})
            answer, descriptors = channel.hear(client.ANSWER_SECONDS)
        finally:
            channel.close()
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        return descriptors[0], answer["layered"]


def find(reference: str) -> Named:
    """The live container of this name or id. Raises NoSuchContainer."""
    for folder in client.control_folders():
        with suppress(errors.LauncherGone, TimeoutError):  # it ended while we looked
            channel = client.open_control(folder)
            try:
                rows = channel.request("list", {})["containers"]
            finally:
                channel.close()
            for row in rows:
                if row["ready"] and reference in (row["id"], row["name"]):
                    return Named(folder, row)
    raise errors.NoSuchContainer(
        f"observe container `{errors.shown(reference)}`: none of this name or id lives: "
        "see `sandbox-kernel ps`, or `%container ps` for those of a notebook"
    )
