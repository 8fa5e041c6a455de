"""The resolver of the networks of one user: sockets, limits, and who asked for what.

It has no thread and no loop: `fileno()` becomes readable when there is something to do, `turn()`
does it, `timeout()` says how long one may wait. Name servers are asked over sockets that `outward`
opens, in the network of the host, each used for one question. What a container may use because of
an answer goes to `learned` before the answer goes out: when that raises, the container gets none.

What one container can cost the others is bounded: questions a second, questions that wait,
streams, addresses.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import ChainMap, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import dns.flags
import dns.message

from sandbox_kernel.network import answering
from sandbox_kernel.network.answering import Answer, Client, Learned, Query

PORT = 53
QUESTIONS_A_SECOND, QUESTIONS_AT_ONCE = 100.0, 200.0
WAITING_OF_ONE, WAITING_OF_ALL = 64, 512
STREAMS_OF_ONE, STREAMS_OF_ALL = 8, 128
STREAM_SECONDS = 5.0
TRY_SECONDS, TRIES = 2.0, 3
MOST_LEARNED = 8192
KEPT_QUESTIONS = 1000
_AT_ONE_TURN = 64


class Outward(Protocol):
    """Opens a socket that does not block, in the network of the host."""

    def __call__(self, kind: socket.SocketKind, *, six: bool) -> socket.socket:
        """`kind`: datagrams or a stream; `six`: of IPv6."""


class Asked(NamedTuple):
    """One question of a container, and what became of it."""

    time: float
    name: str
    kind: str
    outcome: str
    addresses: tuple[str, ...]


class _Asker:
    """What the resolver keeps of one client."""

    def __init__(self, address: str, client: Client) -> None:
        self.address = address
        self.client = client
        self.allowance = QUESTIONS_AT_ONCE
        self.counted = time.monotonic()
        self.waiting = 0
        self.streams = 0
        self.dropped = 0
        self.asked: deque[Asked] = deque(maxlen=KEPT_QUESTIONS)
        self.learned: dict[str, dict[Learned, float]] = {}
        """Name -> what may be used because of it, and until when."""

    def may_ask(self) -> bool:
        """Takes one question from what it may ask now."""
        now = time.monotonic()
        gained = (now - self.counted) * QUESTIONS_A_SECOND
        self.allowance = min(self.allowance + gained, QUESTIONS_AT_ONCE)
        self.counted = now
        if self.allowance < 1:
            self.dropped += 1
            return False
        self.allowance -= 1
        return True

    def remember(self, name: str, learned: Iterable[Learned]) -> bool:
        """Keeps what was learned; False when it is more than one container may know."""
        now = time.monotonic()
        fresh = {item: now + item.lifetime for item in learned}
        count = len(fresh) + sum(len(items) for items in self.learned.values())
        if count > MOST_LEARNED:
            self.learned = {
                known: alive
                for known, items in self.learned.items()
                if (alive := {item: end for item, end in items.items() if end > now})
            }
            count = len(fresh) + sum(len(items) for items in self.learned.values())
        if count > MOST_LEARNED:
            return False
        # The same address with another lifetime is no second one.
        kept = {
            item: end
            for item, end in self.learned.get(name, {}).items()
            if end > now and not any(item[:4] == other[:4] for other in fresh)
        }
        self.learned[name] = {**kept, **fresh}
        return True


class Resolver:
    """Answers the containers of one user."""

    def __init__(
        self,
        outward: Outward,
        servers: Callable[[], Sequence[tuple[str, int]]],
        learned: Callable[[str, Sequence[Learned]], None],
    ) -> None:
        self._outward = outward
        self._servers = servers
        self._learned = learned
        self._selector = selectors.EpollSelector()
        self._askers: dict[str, _Asker] = {}
        self._neighbours: dict[str, dict[str, str]] = {}
        """Network -> name -> address."""
        self._networks: dict[str, dict[str, str]] = {}
        """Container -> address -> network."""
        self._waiting: set[_Waiting] = set()
        self._streams: set[_Stream] = set()

    # -- what the holder tells it ------------------------------------------------------------------

    def add(self, address: str, client: Client) -> None:
        """From now on this address is answered, and its names lead to it."""
        self._askers[address] = _Asker(address, client)
        self._networks.setdefault(client.container, {})[address] = client.network
        self.rename(address, client.names)

    def rename(self, address: str, names: Iterable[str]) -> None:
        """Other names for an address; what its container asked until now stays known."""
        asker = self._askers[address]
        asker.client = asker.client._replace(names=tuple(name.lower() for name in names))
        known = self._neighbours.setdefault(asker.client.network, {})
        for name in [name for name, at in known.items() if at == address]:
            del known[name]
        known.update(dict.fromkeys(asker.client.names, address))

    def remove(self, address: str) -> None:
        """It is answered no more, and nobody is led to it. Unknown is well."""
        asker = self._askers.pop(address, None)
        if asker is None:
            return
        networks = self._networks[asker.client.container]
        del networks[address]
        if not networks:
            del self._networks[asker.client.container]
        names = self._neighbours[asker.client.network]
        for name in [name for name, at in names.items() if at == address]:
            del names[name]
        if not names:
            del self._neighbours[asker.client.network]
        for waiting in [waiting for waiting in self._waiting if waiting.asker is asker]:
            self._forget(waiting)
        for stream in [stream for stream in self._streams if stream.asker is asker]:
            stream.close()

    def change(self, address: str, client: Client) -> tuple[Learned, ...]:
        """Another allow-list or way out for an address; what it learned and may still use.

        Its names stay as they are. Raises KeyError for an address that was not added.
        """
        asker = self._askers[address]
        asker.client = client._replace(names=asker.client.names)
        now = time.monotonic()
        still: dict[str, dict[Learned, float]] = {}
        if client.outside and client.allow is not None:
            for name, items in asker.learned.items():
                rules = client.allow.of_name(name)
                ends = {item.address: end for item, end in items.items() if end > now}
                still[name] = {
                    Learned(at, rule.protocol, rule.first, rule.last, max(1, int(end - now))): end
                    for at, end in ends.items()
                    for rule in rules
                }
        asker.learned = {name: items for name, items in still.items() if items}
        return tuple(item for items in asker.learned.values() for item in items)

    def listen(self, listener: socket.socket) -> None:
        """Answers at a socket that is bound: datagrams, or a stream that listens. Owns it."""
        listener.setblocking(False)
        datagrams = listener.type == socket.SOCK_DGRAM
        take = self._take_datagrams if datagrams else self._take_streams
        self._selector.register(listener, selectors.EVENT_READ, lambda: take(listener))

    def ignore(self, listener: socket.socket) -> None:
        """Closes a socket at which it answered."""
        self._selector.unregister(listener)
        listener.close()

    def asked(self, address: str) -> tuple[Asked, ...]:
        """The last questions of a container; none when it is not known."""
        asker = self._askers.get(address)
        return tuple(asker.asked) if asker is not None else ()

    def dropped(self, address: str) -> int:
        """How many questions were not even read, since there were too many."""
        asker = self._askers.get(address)
        return asker.dropped if asker is not None else 0

    # -- its part of the holder's loop -------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when `turn` has something to do."""
        return self._selector.fileno()

    def timeout(self) -> float | None:
        """Seconds until `turn` has something to do in any case."""
        ends = [waiting.deadline for waiting in self._waiting]
        ends += [stream.deadline for stream in self._streams]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def turn(self) -> None:
        """Does what there is to do, without waiting."""
        for key, _ in self._selector.select(0):
            if key.fd in self._selector.get_map():  # what came before may have closed it
                key.data()
        now = time.monotonic()
        for waiting in [each for each in self._waiting if each.deadline <= now]:
            self._ask(waiting)
        for stream in [each for each in self._streams if each.deadline <= now]:
            stream.close()

    def close(self) -> None:
        """Closes every socket."""
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    # -- questions ---------------------------------------------------------------------------------

    def _take_datagrams(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONE_TURN):
            try:
                wire, source = listener.recvfrom(4096)
            except (BlockingIOError, ConnectionError):
                return

            def reply(data: bytes, source: tuple[str, int] = source) -> None:
                try:
                    listener.sendto(data, source)
                except OSError:  # it is gone, or takes no more: as a datagram that is lost
                    pass

            asker = self._askers.get(source[0])
            if asker is not None and asker.may_ask():
                self._take(asker, wire, reply, stream=False)

    def _take_streams(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONE_TURN):
            try:
                accepted, source = listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            asker = self._askers.get(source[0])
            full = len(self._streams) >= STREAMS_OF_ALL
            if asker is None or full or asker.streams >= STREAMS_OF_ONE:
                accepted.close()
                continue
            accepted.setblocking(False)
            self._streams.add(_Stream(self, asker, accepted))

    def _take(
        self, asker: _Asker, wire: bytes, reply: Callable[[bytes], None], *, stream: bool
    ) -> None:
        query = answering.read(wire)
        if not isinstance(query, Query):
            if query is not None:
                reply(query)
            return
        answer = answering.at_once(query, asker.client, self._names_for(asker.client))
        waiting = _Waiting(asker, query, reply, stream=stream)
        if answer is not None:
            self._answer(waiting, answer)
        elif asker.waiting >= WAITING_OF_ONE or len(self._waiting) >= WAITING_OF_ALL:
            self._answer(waiting, answering.failed(query, answering.FULL))
        else:
            asker.waiting += 1
            self._waiting.add(waiting)
            self._ask(waiting)

    def _names_for(self, client: Client) -> Mapping[str, str]:
        """The names of all networks that a container is on; those of the one it asks from first."""
        networks = (client.network, *self._networks.get(client.container, {}).values())
        return ChainMap(*(self._neighbours.get(network, {}) for network in networks))

    def _answer(self, waiting: _Waiting, answer: Answer) -> None:
        asker, query = waiting.asker, waiting.query
        if answer.learned:
            if not asker.remember(query.name, answer.learned):
                answer = answering.failed(query, answering.FULL)
            else:
                try:
                    self._learned(asker.client.container, answer.learned)
                except Exception:
                    # It may not reach what it would be told of: it is told nothing, then the
                    # holder hears of its own fault.
                    waiting.reply(answering.failed(query, answering.UNANSWERED).message.to_wire())
                    raise
        asker.asked.append(
            Asked(time.time(), query.shown, query.shown_kind, answer.outcome, answer.addresses)
        )
        waiting.reply(answering.packed(answer, query, stream=waiting.stream))

    # -- name servers ------------------------------------------------------------------------------

    def _ask(self, waiting: _Waiting) -> None:
        """Asks the next name server; when all were asked, or the client changed, gives up."""
        self._hang_up(waiting)
        servers = list(self._servers())
        while servers and waiting.tries < TRIES:
            server = servers[waiting.tries % len(servers)]
            waiting.tries += 1
            if self._send(waiting, server, socket.SOCK_DGRAM):
                return
        self._forget(waiting)
        self._answer(waiting, answering.failed(waiting.query, answering.UNANSWERED))

    def _send(self, waiting: _Waiting, server: tuple[str, int], kind: socket.SocketKind) -> bool:
        waiting.message = answering.question(waiting.query)
        waiting.server = server
        waiting.heard = b""
        waiting.deadline = time.monotonic() + TRY_SECONDS
        waiting.socket = self._outward(kind, six=":" in server[0])
        wire = waiting.message.to_wire()
        try:
            # Connected, the kernel drops what comes from elsewhere.
            waiting.socket.connect(server)
            if kind == socket.SOCK_DGRAM:
                waiting.socket.send(wire)
        except BlockingIOError:
            pass
        except OSError:
            waiting.socket.close()
            waiting.socket = None
            return False
        stream = kind == socket.SOCK_STREAM
        events = selectors.EVENT_WRITE if stream else selectors.EVENT_READ
        hear = self._say_on_stream if stream else self._hear
        self._selector.register(waiting.socket, events, lambda: hear(waiting))
        return True

    def _hear(self, waiting: _Waiting) -> None:
        assert waiting.socket is not None
        assert waiting.message is not None
        try:
            wire = waiting.socket.recv(65535)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there
            self._ask(waiting)
            return
        heard = answering.understood(wire, waiting.message)
        if heard is None:
            return  # of somebody else; the right one may still come
        if heard.flags & dns.flags.TC:
            server = waiting.server
            self._hang_up(waiting)
            if not self._send(waiting, server, socket.SOCK_STREAM):
                self._ask(waiting)
            return
        self._heard(waiting, heard)

    def _say_on_stream(self, waiting: _Waiting) -> None:
        """The stream is there: the question is short enough to go at once."""
        assert waiting.socket is not None
        assert waiting.message is not None
        wire = waiting.message.to_wire()
        try:
            waiting.socket.sendall(struct.pack(">H", len(wire)) + wire)
        except OSError:
            self._ask(waiting)
            return
        self._selector.modify(
            waiting.socket, selectors.EVENT_READ, lambda: self._hear_on_stream(waiting)
        )

    def _hear_on_stream(self, waiting: _Waiting) -> None:
        assert waiting.socket is not None
        assert waiting.message is not None
        try:
            data = waiting.socket.recv(65537)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        waiting.heard += data
        length = struct.unpack(">H", waiting.heard[:2])[0] if len(waiting.heard) >= 2 else 65536
        if data and len(waiting.heard) < 2 + length:
            return
        heard = answering.understood(waiting.heard[2 : 2 + length], waiting.message)
        if heard is None:
            self._ask(waiting)
        else:
            self._heard(waiting, heard)

    def _heard(self, waiting: _Waiting, heard: dns.message.Message) -> None:
        answer = answering.from_outside(waiting.query, waiting.asker.client, heard)
        # The list may have changed while the name server thought.
        client = waiting.asker.client
        again = answering.at_once(waiting.query, client, self._names_for(client))
        self._forget(waiting)
        self._answer(waiting, again or answer)

    def _hang_up(self, waiting: _Waiting) -> None:
        if waiting.socket is not None:
            self._selector.unregister(waiting.socket)
            waiting.socket.close()
            waiting.socket = None

    def _forget(self, waiting: _Waiting) -> None:
        self._hang_up(waiting)
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            waiting.asker.waiting -= 1


class _Waiting:
    """A question to which there is no answer yet."""

    def __init__(
        self, asker: _Asker, query: Query, reply: Callable[[bytes], None], *, stream: bool
    ) -> None:
        self.asker = asker
        self.query = query
        self.reply = reply
        self.stream = stream
        self.tries = 0
        self.deadline = 0.0
        self.server = ("", 0)
        self.socket: socket.socket | None = None
        self.message: dns.message.Message | None = None
        self.heard = b""


class _Stream:
    """A stream of a client: one question after the other, each with its length before it."""

    def __init__(self, resolver: Resolver, asker: _Asker, accepted: socket.socket) -> None:
        self.resolver = resolver
        self.asker = asker
        self.deadline = time.monotonic() + STREAM_SECONDS
        self._socket: socket.socket | None = accepted
        self._heard = b""
        self._said = b""
        self._busy = False
        asker.streams += 1
        resolver._selector.register(accepted, selectors.EVENT_READ, self._serve)

    def close(self) -> None:
        """Ends it. Twice is once."""
        if self._socket is None:
            return
        self.resolver._selector.unregister(self._socket)
        self._socket.close()
        self._socket = None
        self.resolver._streams.discard(self)
        self.asker.streams -= 1

    def _serve(self) -> None:
        if self._said:
            self._send()
            return
        assert self._socket is not None
        try:
            data = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        # Who says more while it waits for an answer has no patience to be served with.
        if not data or len(self._heard) > 4096:
            self.close()
            return
        self._heard += data
        self._next()

    def _next(self) -> None:
        if self._busy or len(self._heard) < 2:
            return
        length = struct.unpack(">H", self._heard[:2])[0]
        if length > 4096:
            self.close()
        elif len(self._heard) >= 2 + length:
            wire, self._heard = self._heard[2 : 2 + length], self._heard[2 + length :]
            self._busy = True
            if not self.asker.may_ask():
                self.close()
                return
            self.resolver._take(self.asker, wire, self._reply, stream=True)

    def _reply(self, data: bytes) -> None:
        if self._socket is None:
            return
        self._said = struct.pack(">H", len(data)) + data
        self.deadline = time.monotonic() + STREAM_SECONDS
        self._send()

    def _send(self) -> None:
        assert self._socket is not None
        try:
            self._said = self._said[self._socket.send(self._said) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        wanted = selectors.EVENT_WRITE if self._said else selectors.EVENT_READ
        self.resolver._selector.modify(self._socket, wanted, self._serve)
        if not self._said:
            self._busy = False
            self._next()
