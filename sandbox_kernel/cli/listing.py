"""`sandbox-kernel ps`, `inspect`, `logs` and `events`: what there is, and what it did."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sandbox_kernel import container, errors
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.container import Listed
from sandbox_kernel.runtime import client

_ALL = Flag("all", ("--all", "-a"), "", "Also those that are over and kept for their log.")
_QUIET = Flag("quiet", ("--quiet", "-q"), "", "Print the ids only.")
_FOLLOW = Flag("follow", ("--follow", "-f"), "", "Go on until the container is over.")
_UNTIL_NOW = Flag("until_now", ("--until-now",), "", "Print what was kept of the past, and end.")
SOCKET_SECONDS = 0.01
"""How often a launcher that has just started is tried."""


def ps(found: Parsed) -> int:
    """Lists the containers of this user."""
    rows = container.list_all()
    if not found.own.get("all"):
        rows = [row for row in rows if row.state != "ended"]
    if found.own.get("quiet"):
        for row in rows:
            print(row.id)
    elif found.own.get("format") == "json":
        output.data(rows)
    else:
        headings = ("id", "name", "image", "state", "age", "made by", "command")
        output.table(headings, [_line(row) for row in rows])
    return 0


def _line(row: Listed) -> tuple[str, ...]:
    name = "" if row.name == row.id else row.name
    age = output.shown_age(time.time() - row.created)
    return (
        row.id,
        name,
        row.image,
        state(row),
        age,
        row.program,
        output.short(" ".join(row.command)),
    )


def state(row: Listed) -> str:
    """How it is, and for one that is over how it ended."""
    if row.state != "ended" or not row.exit:
        return row.state
    ended = row.exit
    if ended["reason"] not in (None, "over"):
        return f"ended: {ended['reason']}"
    if ended["signal"] is not None:
        return f"ended: signal {ended['signal']}"
    return f"ended: status {ended['status']}"


def inspect(found: Parsed) -> int:
    """Prints everything about containers, or images, as JSON."""
    output.data([_facts(reference) for reference in found.rest])
    return 0


def _facts(reference: str) -> dict[str, Any]:
    """Of a container, or of the image of that name where there is no container."""
    try:
        return container.inspect(reference)
    except errors.NoSuchContainer:
        from sandbox_kernel.cli import images

        found = images.facts(reference)
        if found is None:
            raise
        return found


def logs(found: Parsed) -> int:
    """Passes on what was written, each stream to ours."""
    from sandbox_kernel.output_policy.terminal import Stream  # of a program's words only

    cleaners = {number: Stream() for number in (1, 2) if os.isatty(number)}
    for stream, data in container.find(found.rest[0]).logs(follow=bool(found.own.get("follow"))):
        sink = sys.stdout if stream == 1 else sys.stderr
        sink.buffer.write(cleaners[stream].clean(data) if stream in cleaners else data)
        sink.flush()
    return 0


def events(found: Parsed) -> int:
    """Prints what happens to the containers of this user, until it is interrupted."""
    as_json = found.own.get("format") == "json"
    for event in _past() if found.own.get("until_now") else _coming():
        if as_json:
            output.line(event)
        else:
            print(_event(event), flush=True)
    return 0


def _event(event: dict[str, Any]) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event["time"]))
    known = ("time", "kind", "id", "name", "image")
    details = [f"{key}={value}" for key, value in event.items() if key not in known and value]
    words = [moment, event["kind"], event["id"], event["name"] or "", event["image"] or ""]
    return output.clean(" ".join(word for word in (*words, *details) if word))


def _past() -> Iterator[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for folder in client.control_folders():
        with suppress(errors.LauncherGone, errors.StepFailed, TimeoutError):
            channel = client.open_control(folder)
            try:
                found += channel.request("events", {})["events"]
            finally:
                channel.close()
    yield from sorted(found, key=lambda event: float(event["time"]))


def _coming() -> Iterator[dict[str, Any]]:
    """Of all launchers, those that start later too: what happens from now on."""
    channels: dict[str, client.Channel] = {}
    begin = time.time()
    started = client.watch_launchers()
    try:
        while True:
            missing = _connect(channels)
            poll = select.poll()
            poll.register(started, select.POLLIN)
            for channel in channels.values():
                poll.register(channel, select.POLLIN)
            # One that has just started has no socket yet; it says nothing when it has.
            ready = {number for number, _ in poll.poll(SOCKET_SECONDS * 1000 if missing else None)}
            if started in ready:
                os.read(started, 65536)
            for folder in [name for name, each in channels.items() if each.fileno() in ready]:
                for event in _hear(channels, folder):
                    if event["time"] >= begin:
                        yield event
    finally:
        os.close(started)
        for channel in channels.values():
            channel.close()


def _connect(channels: dict[str, client.Channel]) -> bool:
    """A channel to each launcher that has none; whether one could not be reached."""
    missing = False
    for folder in set(client.control_folders()) - channels.keys():
        try:
            channel = client.open_control(folder)
            channel.ask("events", {"wait": True})
            channels[folder] = channel
        except errors.LauncherGone:
            missing = True
    return missing


def _hear(channels: dict[str, client.Channel], folder: str) -> list[dict[str, Any]]:
    """What one launcher says; asks it for more."""
    channel = channels[folder]
    try:
        answer, _ = channel.hear()
        channel.ask("events", {"wait": True, "after": answer["next"]})
    except errors.LauncherGone:
        channels.pop(folder).close()
        return []
    except errors.StepFailed:
        return []  # started before an upgrade: it tells no events
    found: list[dict[str, Any]] = answer["events"]
    return found


VERBS = {
    "ps": Verb("ps [options]", "List your containers.", ps, (_ALL, _QUIET, FORMAT), most=0),
    "inspect": Verb(
        "inspect CONTAINER|IMAGE...",
        "Print everything about containers as JSON: plan, limits, use, control groups, end; about "
        "images: names, configuration, layers.",
        inspect,
        least=1,
    ),
    "logs": Verb(
        "logs [options] CONTAINER",
        "Print what a detached container wrote: the last MiB is kept until it is removed.",
        logs,
        (_FOLLOW,),
        least=1,
        most=1,
    ),
    "events": Verb(
        "events [options]",
        "Print what happens to your containers, as it happens.",
        events,
        (_UNTIL_NOW, FORMAT),
        most=0,
    ),
}
