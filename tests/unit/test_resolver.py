"""The resolver of networks: who gets which answer, and what may be used because of it."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_kernel import allowing
from sandbox_kernel.allowing import AllowList
from sandbox_kernel.network import answering, resolver
from sandbox_kernel.network.answering import Client, Learned
from sandbox_kernel.network.name_servers import NameServers
from sandbox_kernel.network.resolver import Resolver

HERE = "127.0.0.1"
CLASSMATE = "127.0.0.2"
STRANGER = "127.0.0.9"


def both() -> tuple[socket.socket, socket.socket]:
    """A socket for datagrams and a listener, of one port of loopback that both can have."""
    while True:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((HERE, 0))
        try:
            return datagrams, socket.create_server(datagrams.getsockname())
        except OSError:  # a stream of somebody else has the port
            datagrams.close()


class NameServer:
    """A name server on loopback whose answers a test writes down."""

    def __init__(self) -> None:
        self.datagrams, self.stream = both()
        self.address = self.datagrams.getsockname()
        self.records: dict[str, list[tuple[str, int, str]]] = {}
        self.asked: list[str] = []
        self.forge: Callable[[dns.message.Message], list[bytes]] | None = None
        self.truncates = False
        self.connections: list[socket.socket] = []

    def say(self, name: str, *texts: str, kind: str = "A", ttl: int = 300) -> None:
        self.records[f"{name}."] = [(kind, ttl, text) for text in texts]

    def answer(self, wire: bytes) -> dns.message.Message:
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text().lower()
        self.asked.append(f"{name} {dns.rdatatype.to_text(query.question[0].rdtype)}")
        response = dns.message.make_response(query)
        while records := self.records.get(name):
            kind, ttl, _ = records[0]
            texts = [text for _, _, text in records]
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *texts))
            if kind != "CNAME":
                break
            name = texts[0]
        if not response.answer:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    def turn(self) -> None:
        for ready in _readable(self.datagrams, self.stream, *self.connections):
            if ready is self.datagrams:
                wire, source = ready.recvfrom(4096)
                response = self.answer(wire)
                if self.forge is not None:
                    for forged in self.forge(response):
                        ready.sendto(forged, source)
                elif self.truncates:
                    response.flags |= dns.flags.TC
                    response.answer.clear()
                    ready.sendto(response.to_wire(), source)
                else:
                    ready.sendto(response.to_wire(max_size=65535), source)
            elif ready is self.stream:
                self.connections.append(ready.accept()[0])
            else:
                wire = ready.recv(4096)
                if wire:
                    data = self.answer(wire[2:]).to_wire(max_size=65535)
                    ready.sendall(struct.pack(">H", len(data)) + data)
                else:
                    self.connections.remove(ready)
                    ready.close()

    def close(self) -> None:
        for each in (self.datagrams, self.stream, *self.connections):
            each.close()


def _readable(*sockets: socket.socket) -> list[socket.socket]:
    with selectors.PollSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(0)]  # type: ignore[misc]


class World:
    """A resolver, the name server that it asks, and clients that are addresses of loopback."""

    def __init__(self) -> None:
        self.server = NameServer()
        self.learned: list[tuple[str, Learned]] = []
        self.resolver = Resolver(self.outward, self.servers, self.learn)
        self.servers_known: list[tuple[str, int]] = [self.server.address]
        datagrams, stream = both()
        self.address = datagrams.getsockname()
        self.resolver.listen(datagrams)
        self.resolver.listen(stream)

    def outward(self, kind: socket.SocketKind, *, six: bool) -> socket.socket:
        opened = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
        opened.setblocking(False)
        return opened

    def servers(self) -> Sequence[tuple[str, int]]:
        return self.servers_known

    def learn(self, container: str, learned: Sequence[Learned]) -> None:
        self.learned += [(container, item) for item in learned]

    def turn_until(self, done: Callable[[], bool], seconds: float = 20) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if done():
                return True
            with selectors.PollSelector() as selector:
                for each in (self.resolver, self.server.datagrams, self.server.stream):
                    selector.register(each, selectors.EVENT_READ)
                for each in self.server.connections:
                    selector.register(each, selectors.EVENT_READ)
                wanted = self.resolver.timeout()
                selector.select(0.02 if wanted is None else min(wanted, 0.02))
            self.server.turn()
            self.resolver.turn()
        return done()

    def ask(
        self, name: str, kind: str = "A", *, source: str = HERE, wire: bytes | None = None
    ) -> dns.message.Message:
        sent = wire or dns.message.make_query(name, kind, use_edns=0).to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((source, 0))
            client.sendto(sent, self.address)
            assert self.turn_until(lambda: bool(_readable(client))), "no answer"
            return dns.message.from_wire(client.recv(4096))

    def addresses(self, name: str, *, source: str = HERE) -> list[str]:
        heard = self.ask(name, source=source)
        return [item.address for found in heard.answer for item in found if found.rdtype == 1]

    def close(self) -> None:
        self.resolver.close()
        self.server.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def client(*allowed: str, outside: bool = True, name: str = "web") -> Client:
    listed = AllowList(allowing.entry(text, "--allow") for text in allowed) if allowed else None
    return Client(f"id-{name}", "class", (name,), outside, listed)


# -- names of containers --------------------------------------------------------------------------


def test_containers_of_a_network_find_each_other_and_nobody_else(world: World) -> None:
    world.resolver.add(HERE, client(outside=False, name="web"))
    world.resolver.add(CLASSMATE, client(outside=False, name="Db.one"))
    world.server.say("web", "9.9.9.9")

    assert world.addresses("WEB", source=CLASSMATE) == [HERE]
    assert world.addresses("db.one.") == [CLASSMATE]
    assert world.ask("db.one", "AAAA").rcode() == dns.rcode.NOERROR
    assert "db.one." in world.ask("2.0.0.127.in-addr.arpa", "PTR").answer[0].to_text()
    refused = world.ask("example.org")
    assert refused.rcode() == dns.rcode.NXDOMAIN
    assert "no way out" in str(refused.options[0])
    world.resolver.rename(CLASSMATE, ["id-db", "Cache"])
    assert world.addresses("cache") == [CLASSMATE]
    assert world.ask("db.one").rcode() == dns.rcode.NXDOMAIN
    world.resolver.remove(CLASSMATE)
    assert world.ask("cache").rcode() == dns.rcode.NXDOMAIN
    assert world.server.asked == []


def test_an_address_that_is_no_containers_gets_no_answer(world: World) -> None:
    world.resolver.add(HERE, client())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((STRANGER, 0))
        stranger.sendto(dns.message.make_query("web", "A").to_wire(), world.address)

        assert world.addresses("web") == [HERE]
        assert not _readable(stranger)


# -- allow-lists: corpus H 92 ---------------------------------------------------------------------


def test_an_allowed_name_is_answered_and_learned_before_the_answer_goes_out(world: World) -> None:
    world.resolver.add(HERE, client("good.com:443", "good.com:80", "udp:good.com:123"))
    world.server.say("good.com", "9.9.9.9", "9.9.9.10", ttl=600)

    assert sorted(world.addresses("GOOD.com."), key=len) == ["9.9.9.9", "9.9.9.10"]
    assert {item[1] for item in world.learned} == {
        Learned(address, protocol, port, port, 600)
        for address in ("9.9.9.9", "9.9.9.10")
        for protocol, port in (("tcp", 443), ("tcp", 80), ("udp", 123))
    }


@pytest.mark.parametrize(
    "name",
    ["good.com.evil.com", "evilgood.com", "com", "bad.com", "a.b", "xn--good-.com", "good.com.a."],
)
def test_a_name_that_is_not_listed_is_asked_of_nobody(world: World, name: str) -> None:
    world.resolver.add(HERE, client("good.com:443"))
    world.server.say(name.removesuffix("."), "9.9.9.9")

    heard = world.ask(name)

    assert heard.rcode() == dns.rcode.NXDOMAIN
    assert world.server.asked == []
    assert world.learned == []
    assert world.resolver.asked(HERE)[-1].outcome == answering.NOT_LISTED


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "127.0.0.1", "169.254.169.254", "100.100.100.200", "192.168.1.1", "0.0.0.0"],
)
def test_a_name_that_leads_to_a_special_address_leads_nowhere(world: World, address: str) -> None:
    world.resolver.add(HERE, client("good.com:443", "*.good.com:443", "0.0.0.0/0:443"))
    world.server.say("good.com", address)
    world.server.say("alias.good.com", "inner.evil.com.", kind="CNAME")
    world.server.say("inner.evil.com", address)
    world.server.say("both.good.com", address, "9.9.9.9")

    assert world.ask("good.com").rcode() == dns.rcode.NXDOMAIN
    assert world.addresses("alias.good.com") == []
    assert world.addresses("both.good.com") == ["9.9.9.9"]
    assert [item.address for _, item in world.learned] == ["9.9.9.9"]


def test_a_second_answer_for_a_name_is_judged_anew(world: World) -> None:
    world.resolver.add(HERE, client("good.com:443"))
    world.server.say("good.com", "9.9.9.9", ttl=0)
    assert world.addresses("good.com") == ["9.9.9.9"]
    world.server.say("good.com", "10.0.0.1", ttl=0)

    assert world.addresses("good.com") == []
    assert [item.address for _, item in world.learned] == ["9.9.9.9"]


def test_a_lifetime_of_zero_leaves_time_to_connect_and_none_is_endless(world: World) -> None:
    world.resolver.add(HERE, client("*.good.com:443"))
    world.server.say("a.good.com", "9.9.9.9", ttl=0)
    world.server.say("b.good.com", "9.9.9.10", ttl=2**31 - 1)

    short, long = world.ask("a.good.com"), world.ask("b.good.com")

    assert short.answer[0].ttl == 0
    assert long.answer[0].ttl == answering.MOST_SECONDS
    assert [item.lifetime for _, item in world.learned] == [60, 3600]


def test_a_special_address_that_the_list_names_may_be_told(world: World) -> None:
    world.resolver.add(HERE, client("db.good.com:5432", "10.1.0.0/16:5432"))
    world.server.say("db.good.com", "10.1.2.3", "10.2.0.1")

    assert world.addresses("db.good.com") == ["10.1.2.3"]
    assert world.learned == []  # the entry with the address lets it through, with its ports


def test_more_addresses_than_one_answer_may_have_are_left_out(world: World) -> None:
    world.resolver.add(HERE, client("good.com:443"))
    world.server.say("good.com", *(f"9.9.{n // 250}.{n % 250 + 1}" for n in range(2000)))
    world.server.truncates = True

    told = world.addresses("good.com")

    assert len(told) == answering.MOST_ADDRESSES
    assert len(world.learned) == answering.MOST_ADDRESSES


def test_a_loop_of_aliases_ends(world: World) -> None:
    world.resolver.add(HERE, client("a.com:1"))
    world.server.forge = lambda response: [
        _with(response, ("a.com.", "CNAME", "b.com."), ("b.com.", "CNAME", "a.com."))
    ]

    assert world.addresses("a.com") == []


def _with(response: dns.message.Message, *records: tuple[str, str, str]) -> bytes:
    response.answer = [
        dns.rrset.from_text(name, 60, "IN", kind, text) for name, kind, text in records
    ]
    response.set_rcode(dns.rcode.NOERROR)
    return response.to_wire()


def test_records_beside_the_name_that_was_asked_for_are_not_believed(world: World) -> None:
    world.resolver.add(HERE, client("a.com:1"))
    world.server.forge = lambda response: [
        _with(response, ("a.com.", "A", "9.9.9.9"), ("b.com.", "A", "9.9.9.8"))
    ]

    assert world.addresses("a.com") == ["9.9.9.9"]
    assert [item.address for _, item in world.learned] == ["9.9.9.9"]


def test_an_answer_to_another_question_is_passed_over(world: World) -> None:
    def forged(response: dns.message.Message) -> list[bytes]:
        right = _with(response, ("a.com.", "A", "9.9.9.9"))
        wrong_id = bytes([right[0] ^ 1]) + right[1:]
        other = dns.message.make_response(dns.message.make_query("b.com", "A", id=response.id))
        return [b"", b"\0", wrong_id, _with(other, ("a.com.", "A", "6.6.6.6")), right]

    world.resolver.add(HERE, client("a.com:1"))
    world.server.forge = forged

    assert world.addresses("a.com") == ["9.9.9.9"]


def test_who_may_not_be_told_what_was_learned_gets_no_answer(world: World) -> None:
    def fail(container: str, learned: Sequence[Learned]) -> None:
        raise OSError(12, "no memory for the set")

    world.learn = fail  # type: ignore[method-assign]
    world.resolver = Resolver(world.outward, world.servers, fail)
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((HERE, 0))
    world.address = listener.getsockname()
    world.resolver.listen(listener)
    world.resolver.add(HERE, client("a.com:1"))
    world.server.say("a.com", "9.9.9.9")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind((HERE, 0))
        asking.sendto(dns.message.make_query("a.com", "A").to_wire(), world.address)

        with pytest.raises(OSError, match="no memory"):
            world.turn_until(lambda: False, seconds=10)
        assert dns.message.from_wire(asking.recv(4096)).rcode() == dns.rcode.SERVFAIL


def test_another_list_holds_at_once_and_keeps_what_it_still_allows(world: World) -> None:
    world.resolver.add(HERE, client("a.com:443", "b.com:443"))
    world.server.say("a.com", "9.9.9.9")
    world.server.say("b.com", "9.9.9.8")
    assert world.addresses("a.com") and world.addresses("b.com")

    still = world.resolver.change(HERE, client("a.com:80"))

    assert [(item.address, item.first) for item in still] == [("9.9.9.9", 80)]
    assert world.ask("b.com").rcode() == dns.rcode.NXDOMAIN
    assert world.addresses("web") == [HERE]
    assert world.resolver.change(HERE, client(outside=False)) == ()
    assert world.ask("a.com").rcode() == dns.rcode.NXDOMAIN


def test_a_list_that_changed_while_a_name_server_thought_holds_for_its_answer(
    world: World,
) -> None:
    world.resolver.add(HERE, client("a.com:443"))

    def late(response: dns.message.Message) -> list[bytes]:
        world.resolver.change(HERE, client("b.com:443"))
        return [_with(response, ("a.com.", "A", "9.9.9.9"))]

    world.server.forge = late

    assert world.ask("a.com").rcode() == dns.rcode.NXDOMAIN
    assert world.learned == []


# -- tunnels and floods: corpus H 95 --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TXT", "MX", "HTTPS", "NULL", "ANY", "SRV", "AAAA", "CNAME"])
def test_under_a_list_only_addresses_are_asked_for(world: World, kind: str) -> None:
    world.resolver.add(HERE, client("*.good.com:443"))

    heard = world.ask("data.good.com", kind)

    assert (heard.rcode(), heard.answer) == (dns.rcode.NOERROR, [])
    assert world.server.asked == []


def test_with_no_list_other_records_pass_and_special_addresses_do_not(world: World) -> None:
    world.resolver.add(HERE, client())
    world.server.say("a.com", '"hello"', kind="TXT")
    world.server.say("b.com", "10.0.0.1")

    assert "hello" in world.ask("a.com", "TXT").answer[0].to_text()
    assert world.ask("b.com").rcode() == dns.rcode.NXDOMAIN
    assert world.ask("intranet").rcode() == dns.rcode.NXDOMAIN
    assert world.server.asked == ["a.com. TXT", "b.com. A"]
    assert world.learned == []


def test_questions_beyond_the_rate_are_not_read(world: World) -> None:
    world.resolver.add(HERE, client(outside=False))
    wire = dns.message.make_query("web", "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        flood.bind((HERE, 0))
        for _ in range(20):
            for _ in range(50):
                flood.sendto(wire, world.address)
            world.resolver.turn()
            world.resolver.turn()
        assert len(world.resolver.asked(HERE)) < 600
        assert world.resolver.dropped(HERE) > 300


def test_what_is_asked_for_at_once_is_bounded(world: World) -> None:
    world.resolver.add(HERE, client())
    world.servers_known = [(HERE, _silent_port())]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client_socket:
        client_socket.bind((HERE, 0))
        for number in range(resolver.WAITING_OF_ONE + 20):
            wire = dns.message.make_query(f"name-{number}.com", "A").to_wire()
            client_socket.sendto(wire, world.address)
        assert world.turn_until(lambda: len(world.resolver.asked(HERE)) >= 20)

        assert {asked.outcome for asked in world.resolver.asked(HERE)} >= {answering.FULL}


_kept: list[socket.socket] = []


def _silent_port() -> int:
    """A port whose owner reads nothing."""
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind((HERE, 0))
    _kept.append(silent)
    port: int = silent.getsockname()[1]
    return port


def test_name_servers_that_are_not_there_are_passed_over(world: World) -> None:
    world.resolver.add(HERE, client())
    nobody = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    nobody.bind((HERE, 0))
    port = nobody.getsockname()[1]
    nobody.close()
    world.servers_known = [(HERE, port), world.server.address]
    world.server.say("a.com", "9.9.9.9")

    assert world.addresses("a.com") == ["9.9.9.9"]
    world.servers_known = [(HERE, port)]
    assert world.ask("a.com").rcode() == dns.rcode.SERVFAIL
    world.servers_known = []
    assert world.ask("a.com").rcode() == dns.rcode.SERVFAIL


# -- streams --------------------------------------------------------------------------------------


def test_streams_are_answered_and_those_that_say_nothing_are_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "STREAM_SECONDS", 0.3)
    world.resolver.add(HERE, client(outside=False))
    wire = dns.message.make_query("web", "A").to_wire()
    idle = socket.create_connection(world.address, source_address=(HERE, 0))
    asking = socket.create_connection(world.address, source_address=(HERE, 0))
    with idle, asking:
        framed = struct.pack(">H", len(wire)) + wire
        asking.sendall(framed[:5])
        world.turn_until(lambda: False, seconds=0.05)
        asking.sendall(framed[5:] + framed)
        data = b""
        while len(data) < 80 and world.turn_until(lambda: bool(_readable(asking)), 2):
            if not (more := asking.recv(4096)):
                break
            data += more
        length = struct.unpack(">H", data[:2])[0]
        first, rest = data[2 : 2 + length], data[2 + length :]

        assert dns.message.from_wire(first).answer[0][0].address == HERE
        assert dns.message.from_wire(rest[2:]).answer[0][0].address == HERE
        assert world.turn_until(lambda: bool(_readable(idle)))
        assert idle.recv(1) == b""


def test_one_container_has_few_streams(world: World) -> None:
    world.resolver.add(HERE, client(outside=False))
    opened = [
        socket.create_connection(world.address, source_address=(HERE, 0))
        for _ in range(resolver.STREAMS_OF_ONE + 3)
    ]
    try:
        closed = world.turn_until(lambda: len(_readable(*opened)) >= 3, 3)
        assert closed
    finally:
        for each in opened:
            each.close()


# -- bytes that are no question -------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_do_more_than_to_be_refused(data: bytes) -> None:
    read = answering.read(data)
    answering.understood(data, dns.message.make_query("a.com", "A"))

    assert read is None or isinstance(read, answering.Query) or len(read) == 12


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_to_a_message_gets_a_special_address_through(data: st.DataObject) -> None:
    query = answering.read(dns.message.make_query("a.com", "A", use_edns=0).to_wire())
    assert isinstance(query, answering.Query)
    asked = answering.question(query)
    response = dns.message.make_response(asked)
    response.answer.append(dns.rrset.from_text("a.com.", 60, "IN", "CNAME", "b.com."))
    response.answer.append(dns.rrset.from_text("b.com.", 60, "IN", "A", "9.9.9.9", "10.0.0.1"))
    wire = bytearray(response.to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    heard = answering.understood(bytes(wire), asked)
    if heard is None:
        return
    answer = answering.from_outside(query, client("a.com:443"), heard)
    answering.packed(answer, query, stream=False)

    for learned in answer.learned:
        number = allowing.address_number(learned.address)
        assert number is not None and not allowing.is_special(number)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (dns.message.make_query("web", "A").to_wire()[:-3], dns.rcode.FORMERR),
        (b"\x12\x34\x28\x00" + b"\0" * 8, None),  # an update
        (dns.message.make_query("web", "A", "CH").to_wire(), dns.rcode.REFUSED),
    ],
    ids=["cut", "update", "another class"],
)
def test_what_is_no_question_of_the_internet_is_refused(
    world: World, wire: bytes, code: dns.rcode.Rcode | None
) -> None:
    world.resolver.add(HERE, client(outside=False))

    heard = world.ask("", wire=wire)

    assert heard.rcode() == (code if code is not None else heard.rcode())
    assert heard.rcode() != dns.rcode.NOERROR
    assert heard.answer == []


def test_the_name_servers_of_the_host_are_read_again_when_they_change(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    servers = NameServers(str(file))
    assert servers() == ()

    file.write_text("# nameserver 1.1.1.1\nsearch a\nnameserver 127.0.0.53\nnameserver x\n")
    assert servers() == (("127.0.0.53", 53),)

    file.write_text("".join(f"nameserver 10.0.0.{n}\nnameserver fd00::{n}\n" for n in range(9)))
    assert servers() == (("10.0.0.0", 53), ("fd00::", 53), ("10.0.0.1", 53))
