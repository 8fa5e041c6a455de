"""The process that rattler runs in: reads one order in JSON, answers in JSON, ends.

    {"verb": "solve", ...}     which packages of the channels fit together
    {"verb": "fetch", ...}     files by their addresses, each of a size at most

It writes only the files that it is told, and a cache of what channels have.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE = 1 << 20
AT_ONCE = 4


class _Wrong(Exception):
    """What is told as the answer."""


def main() -> None:
    """The process's whole life."""
    order = json.load(sys.stdin)
    try:
        answer = asyncio.run(_VERBS[order["verb"]](order))
    except Exception as error:  # rattler's exceptions have no base of their own: all are told
        answer = {"error": str(error) or type(error).__name__}
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # rattler's threads may still hold objects of an interpreter that ends: it crashed


async def _solve(order: dict[str, Any]) -> dict[str, Any]:
    import rattler

    channels = dict(order["channels"])
    specs = []
    for spec in order["specs"]:
        name, colons, rest = spec.partition("::")
        specs.append(rattler.MatchSpec(f"{channels[name]}::{rest}" if colons else spec))
    given = [
        rattler.GenericVirtualPackage(
            rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build)
        )
        for name, version, build in order["virtual_packages"]
    ]
    cutoff = order["cutoff"]
    found = await rattler.solve(
        [rattler.Channel(address) for address in channels.values()],
        specs,
        gateway=rattler.Gateway(cache_dir=order["cache"]),
        platforms=order["subdirs"],
        virtual_packages=given,
        exclude_newer=None
        if cutoff is None
        else datetime.datetime.fromtimestamp(cutoff, datetime.UTC),
        channel_relations="disabled",
    )
    return {"packages": [_told(record, channels) for record in found]}


def _told(record: Any, channels: dict[str, str]) -> dict[str, Any]:
    """A record, as far as a lock needs it. Raises _Wrong for one that can't be in a lock."""
    whole = f"{record.name.normalized} {record.version}"
    address = unquote(record.url)
    below = f"/{record.subdir}/{record.file_name}"
    channel = [name for name, place in channels.items() if address == unquote(place) + below]
    if not channel:
        raise _Wrong(f"`{whole}` does not lie in its channel, but at another address")
    if record.sha256 is None or not record.size:
        raise _Wrong(f"the channel `{channel[0]}` says no sha256 or no size of `{whole}`")
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "channel": channel[0],
        "subdir": record.subdir,
        "file": record.file_name,
        "sha256": record.sha256.hex(),
        "size": record.size,
        "depends": list(record.depends),
        "site_packages": record.python_site_packages_path,
    }


class _Capped:
    """Writes to a file, and no more than was said."""

    def __init__(self, file: Any, most: int) -> None:
        self._file = file
        self._left = most

    def write(self, data: bytes) -> None:
        """Raises _Wrong above the cap."""
        self._left -= len(data)
        if self._left < 0:
            raise _Wrong("it is larger than its lock says")
        self._file.write(data)


async def _fetch(order: dict[str, Any]) -> dict[str, Any]:
    import rattler
    from rattler.package_streaming import download_to_writer

    client = rattler.Client.default_client()
    free = asyncio.Semaphore(AT_ONCE)

    async def one(address: str, path: str, most: int) -> None:
        async with free:
            with open(path, "xb") as file:
                capped = _Capped(file, most)
                try:
                    if urlsplit(address).scheme == "file":
                        _copy(address, capped)
                    else:
                        await download_to_writer(client, address, capped)
                except Exception as error:
                    name = os.path.basename(urlsplit(address).path)
                    raise _Wrong(f"`{name}`: {error}") from error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_one_error(one(*each))) for each in order["files"]]
    for task in tasks:
        if (error := task.result()) is not None:
            raise error
    return {}


async def _one_error(work: Coroutine[Any, Any, None]) -> _Wrong | None:
    """Its error as a value: the first one is told, and not a group of them."""
    try:
        await work
    except _Wrong as error:
        return error
    return None


def _copy(address: str, capped: _Capped) -> None:
    with open(unquote(urlsplit(address).path), "rb") as source:
        while data := source.read(PIECE):
            capped.write(data)


_VERBS: dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
    "fetch": _fetch,
    "solve": _solve,
}
