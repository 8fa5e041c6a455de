"""`sandbox-kernel capture`: the packets of a container, as lines and as a pcap file."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from sandbox_kernel import grammar
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.errors import StepFailed
from sandbox_kernel.network import capture
from sandbox_kernel.network.capture import Packet
from sandbox_kernel.observe import networks

_COUNT = Flag("count", ("--count", "-c"), "NUMBER", "End after so many packets.")
_TIME = Flag("time", ("--time", "-t"), "TIME", "End after so long.")
_FILE = Flag("file", ("--file", "-w"), "FILE", "Write them into this file, which must be new, as "
    "Wireshark and tcpdump read it.")  # fmt: skip
FLAGS = (_COUNT, _TIME, _FILE)
KEPT = 10_000
"""Of how many packets the table is made."""
TALKS = ("from", "to", "protocol", "port", "packets", "bytes")


@dataclass
class Captured:
    """What was seen: all is in the file, the last ones are here."""

    container: str
    packets: list[Packet] = field(default_factory=list)
    count: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Wish:
    """What is to be captured, and for how long."""

    container: str
    count: int
    seconds: float | None
    file: str | None


def read(found: Parsed) -> Wish:
    """What was typed. Raises InvalidOption."""
    own = found.own
    most = capture.MOST_PACKETS
    return Wish(
        container=found.rest[0],
        count=grammar.whole(own["count"], "--count", least=1, most=most)
        if "count" in own
        else most,
        seconds=grammar.seconds(own["time"], "--time") if "time" in own else None,
        file=own.get("file"),
    )


def perform(
    wish: Wish,
    opened: socket.socket,
    seen: Captured,
    tell: Callable[[Packet], None],
    until: int | None = None,
) -> None:
    """Captures until the wish is fulfilled; `seen` grows meanwhile. Ctrl-C ends it well."""
    with opened, _file(wish.file) as file:
        writer = capture.Writer(file) if file is not None else None
        with contextlib.suppress(KeyboardInterrupt):
            for frame in capture.frames(
                opened, count=wish.count, seconds=wish.seconds, until=until
            ):
                if writer is not None:
                    writer.write(frame)
                packet = capture.dissect(frame)
                seen.count += 1
                seen.packets.append(packet)
                del seen.packets[:-KEPT]
                tell(packet)
        seen.lost = capture.lost(opened)


def line(packet: Packet) -> str:
    """One packet as a line of a log."""
    part = time.localtime(packet.time)
    moment = f"{time.strftime('%H:%M:%S', part)}.{int(packet.time * 1e6) % 10**6:06d}"
    ends = [
        address + (f":{port}" if port is not None else "")
        for address, port in (
            (packet.source, packet.source_port),
            (packet.destination, packet.port),
        )
    ]
    return output.clean(f"{moment} {packet.protocol} {ends[0]} -> {ends[1]} {packet.says}".rstrip())


def talk_rows(seen: Captured) -> list[tuple[str, ...]]:
    """Who said how much to whom."""
    return [
        (
            talk.source,
            talk.destination,
            talk.protocol,
            "-" if talk.port is None else str(talk.port),
            str(talk.packets),
            grammar.shown_size(talk.bytes),
        )
        for talk in capture.talks(seen.packets)
    ]


def summary(seen: Captured) -> str:
    """How many, and how many there was no room for."""
    text = f"{seen.count} packets of {seen.container}"
    return text + (f", {seen.lost} more were lost: they came too fast" if seen.lost else "")


def _capture(found: Parsed) -> int:
    wish = read(found)
    seen = Captured(wish.container)
    as_json = found.own.get("format") == "json"

    def tell(packet: Packet) -> None:
        if as_json:
            output.line(packet._asdict())
        else:
            print(line(packet), flush=True)

    perform(wish, networks.open_capture(wish.container), seen, tell)
    if not as_json:
        if seen.packets:
            print()
            output.table(TALKS, talk_rows(seen))
        sys.stderr.write(f"sandbox-kernel: {summary(seen)}\n")
    return 0


@contextmanager
def _file(path: str | None) -> Iterator[BinaryIO | None]:
    """A new file for this user alone: packets are not for others. Raises StepFailed."""
    if path is None:
        yield None
        return
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StepFailed("write", path, os.strerror(error.errno or 0), error.errno or 0) from error
    with open(number, "wb") as file:
        yield file


VERBS = {
    "capture": Verb(
        "capture [options] CONTAINER",
        "Show the packets of a container of yours as they come and go, also those that are dropped "
        "then, until --count, --time, its end, or Ctrl-C; then who talked to whom.",
        _capture,
        (*FLAGS, FORMAT),
        least=1,
        most=1,
    )
}
