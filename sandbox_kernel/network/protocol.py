"""What the network holder is asked, as strict structures; each request has one answer.

A request is one packet of `linux.messages` with `do`, and `tag`, which its answer repeats. The
answer is an object with `event`: the request's own word, or "error" with `kind` and `text` (or
`arguments`) as the launcher has them. What a connection plugged in ends with that connection.
"""

from __future__ import annotations

from typing import Any

import msgspec

RESOLVER = "192.0.0.53"
"""Where containers ask for names: an address of no other host (RFC 6890, IETF assignments).

It stands in `bundle.defaults` too, which must not know this room."""
BRIDGE = "bridge"
"""The network with a way out, whose containers do not reach each other."""
LOG_GROUP = 1
"""Where the kernel tells of dropped packets."""
REASONS = (
    "private", "not-allowed", "no-way-out", "spoofed", "ipv6", "to-gateway", "multicast",
    "too-many-flows", "unknown-protocol",
)  # fmt: skip
"""Why a packet may be dropped."""

MOST_ALLOWED = 20_000
MOST_PUBLISHED = 64


class Shape(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How slow a link is, in each direction. 0: as fast as it can be."""

    bandwidth: int = 0
    """Bits per second."""
    latency: float = 0.0
    """Seconds."""
    loss: float = 0.0
    """Of 1."""

    def __bool__(self) -> bool:
        return bool(self.bandwidth or self.latency or self.loss)


class Port(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A port of this machine that leads to one of a container. `port` 0: any free one."""

    address: str
    port: int
    inside: int


class Request(msgspec.Struct, forbid_unknown_fields=True, tag_field="do", kw_only=True):
    """Any of them."""

    tag: int = 0


class Hello(Request, tag="hello"):
    """Who is there: `range`, `outside` (whether there is a way out, else why not), `pid`."""


class Stop(Request, tag="stop"):
    """End as soon as nobody needs the holder; who asks hears its end."""


class Plug(Request, tag="plug"):
    """Connect the network namespace whose descriptor comes with this.

    Answered by `address`, `mac`, `interface`, `gateway`, `published`, when the rules are in force.
    """

    container: str
    network: str
    name: str | None = None
    allow: list[str] | None = None
    """Entries of an allow-list; None: whatever the network lets through."""
    shape: Shape = Shape()
    publish: list[Port] = []


class Unplug(Request, tag="unplug"):
    """The container is over: all its links, addresses, rules and ports go."""

    container: str


class Name(Request, tag="name"):
    """A container that was plugged in ahead has a name, by which others find it, and ports."""

    container: str
    name: str | None = None
    publish: list[Port] = []


class Change(Request, tag="change"):
    """Another allow-list or shape for a container that lives; what is absent stays."""

    container: str
    allow: list[str] | None = None
    add: list[str] = []
    drop: list[str] = []
    """Entries to add to the list, or to take from it; each acts at once."""
    shape: Shape | None = None


class Connect(Request, tag="connect"):
    """One more network for a container that lives: a further interface."""

    container: str
    network: str


class Disconnect(Request, tag="disconnect"):
    """One network less for it."""

    container: str
    network: str


class Networks(Request, tag="networks"):
    """All networks: `networks`, each as `inspect` has it."""


class Create(Request, tag="create"):
    """A named network that stays without containers, until it is removed."""

    name: str


class Remove(Request, tag="remove"):
    """End a network in which no container is."""

    name: str


class Inspect(Request, tag="inspect"):
    """One network: `name`, `subnet`, `gateway`, `bridge`, `kept`, `containers`."""

    name: str


class Plugged(Request, tag="plugged"):
    """How a container is connected: `links` with their `network`, `address`, ..., `allow`, ..."""

    container: str


class Facts(Request, tag="facts"):
    """What is observed of a container, or of all that is there."""

    container: str | None = None


class Drops(Request, tag="drops"):
    """Packets that were dropped, after a position: `drops`, `next`, `missed`."""

    container: str | None = None
    after: int = 0
    wait: bool = False
    """Answered when there is one; meanwhile the connection is for nothing else."""


class Capture(Request, tag="capture"):
    """A packet socket on a container's link comes with the answer; `network`: which of several."""

    container: str
    network: str | None = None


AnyRequest = (
    Hello
    | Stop
    | Plug
    | Unplug
    | Name
    | Change
    | Connect
    | Disconnect
    | Networks
    | Create
    | Remove
    | Inspect
    | Plugged
    | Facts
    | Drops
    | Capture
)


def read(message: dict[str, Any]) -> AnyRequest:
    """A packet as a request. Raises msgspec.ValidationError."""
    try:
        request: AnyRequest = msgspec.convert(message, AnyRequest)
    except UnicodeError as error:  # half of a pair of surrogates in a word
        raise msgspec.ValidationError(str(error)) from None
    return request


def write(request: Request) -> dict[str, Any]:
    """A request as a packet."""
    made: dict[str, Any] = msgspec.to_builtins(request)
    return made
