"""The network holder: a process of one user that holds all his networks on one machine.

Started by the first need, as `python -I`, by `client.Holder`; ends itself when it holds nothing and
nobody is connected. It has a lock in its folder and listens on a socket there, both for this user
alone. All that it holds ends with it, also by SIGKILL: its namespace with bridges and rules, each
container's link with the end that is there, the way out (see `uplink`, `pasta`). Containers have no
network then, never an open one.

    <runtime folder>/networks/<network namespace of the machine>/lock    held as long as it lives
                                                                /socket  requests (`protocol`)
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sandbox_kernel.errors import SandboxError, StepFailed
from sandbox_kernel.linux import messages, processes
from sandbox_kernel.network import addresses, capture, facts, pasta, protocol, spaces
from sandbox_kernel.network.answering import Learned
from sandbox_kernel.network.drops import Drops
from sandbox_kernel.network.firewall import Firewall
from sandbox_kernel.network.links import prepare
from sandbox_kernel.network.loop import Loop
from sandbox_kernel.network.machine import Machine
from sandbox_kernel.network.name_servers import NameServers
from sandbox_kernel.network.networks import Networks
from sandbox_kernel.network.publishing import Publishing
from sandbox_kernel.network.resolver import PORT, Resolver
from sandbox_kernel.network.uplink import Uplink
from sandbox_kernel.runtime import forwarding, network_folders, sharing, wiring

IDLE_SECONDS = 20.0
"""How long it stays when nobody needs it."""
_TURN_SECONDS, _QUIET_SECONDS = 1.0, 0.1
_UCRED_SIZE = 12


class Client:
    """One connection, and what was plugged in over it."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.containers: set[str] = set()
        self.waits_for_end = False
        self.waits_for: protocol.Drops | None = None
        self.looked = 0


class Holder:
    """The loop, and what is asked over each connection."""

    def __init__(self, folder: str, lock: int, settings: dict[str, Any]) -> None:
        self._folder = folder
        self._lock = lock
        ordinary = os.getuid() != 0
        starter = pasta.fork_starter() if ordinary else None
        shared = -1
        if ordinary:
            _, shared = sharing.enter(os.path.dirname(os.path.dirname(folder)))
        forwarding.switch_back(folder)
        self._loop = Loop()
        self._spaces = spaces.Spaces()
        self._machine = Machine(self._spaces.outside)
        self._clients: dict[int, Client] = {}
        self._own = prepare()
        self._firewall = Firewall()
        self._firewall.protect(self._machine.addresses())
        self._loop.watch(self._machine.fileno(), lambda _: self._machine.turn(self._protect))
        chosen = addresses.Addresses(
            addresses.choose(settings.get("range"), self._machine.routes())
        )
        self._outlet: Uplink | pasta.Pasta
        if starter is None:
            self._outlet = Uplink(self._spaces, self._machine, self._own, chosen.link, folder)
        else:
            self._outlet = pasta.Pasta(
                starter, self._spaces, self._loop, self._own, chosen.link, self._lost_way_out
            )
        self._resolver = self._make_resolver()
        self._publishing = Publishing(self._loop, self._spaces.outside)
        self._networks = Networks(
            self._spaces,
            self._firewall,
            chosen,
            self._resolver,
            self._publishing,
            self._outlet,
            settings["hardware"],
        )
        self._others = self._answers()
        self._drops = Drops(self._networks.container_at)
        self._loop.watch(self._drops.fileno(), lambda _: self._drops.turn())
        self._about = {"range": str(chosen.whole), "hardware": settings["hardware"]}
        self._listen = self._begin_listening()
        if shared >= 0:
            os.close(shared)
        self._used = self._looked = time.monotonic()

    def serve(self) -> None:
        """Until nobody needs it."""
        try:
            while not self._is_idle() and self._is_found():
                waits = self._resolver.timeout()
                longest = _QUIET_SECONDS if self._networks.untidy else _TURN_SECONDS
                if not self._loop.turn(longest if waits is None else min(waits, longest)):
                    self._tidy()
                self._resolver.turn()
                self._tell_of_drops()
        finally:
            self._stop_listening()
            self._networks.close()
            network_folders.remove(self._folder)

    def _tidy(self) -> None:
        """When nobody wants anything: the kernel takes as long for one as for many."""
        try:
            self._networks.tidy()
        except OSError as error:
            # What the rules know of addresses that nobody gets again leads nowhere.
            print(f"sandbox-kernel: tidy rules: {error}", file=sys.stderr, flush=True)

    def _is_idle(self) -> bool:
        now = time.monotonic()
        clients = self._clients.values()
        if self._networks.networks or not all(client.waits_for_end for client in clients):
            self._used = now
        return now - self._used > (0 if clients else IDLE_SECONDS)

    # --- sockets

    def _make_resolver(self) -> Resolver:
        resolver = Resolver(self._outward, NameServers(), self._learned)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            made = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((protocol.RESOLVER, PORT))
            if kind == socket.SOCK_STREAM:
                made.listen(64)
            resolver.listen(made)
        self._loop.watch(resolver.fileno(), lambda _: resolver.turn())
        return resolver

    def _outward(self, kind: socket.SocketKind, *, six: bool) -> socket.socket:
        family = socket.AF_INET6 if six else socket.AF_INET

        def make() -> socket.socket:
            return socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

        return self._spaces.outside.call(make)

    def _learned(self, container: str, learned: Sequence[Learned]) -> None:
        self._networks.learn(container, learned)

    def _protect(self, found: set[str]) -> None:
        self._firewall.protect(found)

    def _lost_way_out(self) -> None:
        self._networks.lost_way_out()

    def _is_found(self) -> bool:
        """Whether others find us; a socket that somebody removed by hand is made again.

        Without a folder to have it in we end, and the networks with us.
        """
        now = time.monotonic()
        if now - self._looked < _TURN_SECONDS:
            return True
        self._looked = now
        if not os.path.isdir(self._folder):
            return False
        if not os.path.lexists(f"{self._folder}/socket"):
            self._loop.forget(self._listen.fileno())
            self._listen.close()
            self._listen = self._begin_listening()
        return True

    def _begin_listening(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        listener.setblocking(False)
        path = f"{self._folder}/socket"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o077)
        listener.bind(path)
        os.umask(before)
        listener.listen(64)
        self._loop.watch(listener.fileno(), self._accept)
        return listener

    def _stop_listening(self) -> None:
        """Whoever comes from now on starts another holder."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._folder}/socket")
        self._loop.forget(self._listen.fileno())
        self._listen.close()

    def _accept(self, _: int) -> None:
        try:
            channel, _ = self._listen.accept()
        except OSError:
            return
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED_SIZE)
        if int.from_bytes(credentials[4:8], sys.byteorder) != os.getuid():
            channel.close()
            return
        channel.setblocking(False)
        client = Client(channel)
        self._clients[channel.fileno()] = client
        self._loop.watch(channel.fileno(), lambda _: self._hear(client))

    # --- requests

    def _hear(self, client: Client) -> None:
        try:
            received = messages.receive(client.channel, messages.DONT_WAIT)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            self._drop(client)
            return
        message, given = received
        client.waits_for = None
        try:
            answer, descriptors = self._answer(client, message, given)
        except (SandboxError, OSError, msgspec.ValidationError) as error:
            answer, descriptors = wiring.as_message(error), []
        finally:
            for descriptor in given:
                os.close(descriptor)
        if client.waits_for is None:
            self._tell(client, {**answer, "tag": message.get("tag", 0)}, descriptors)

    def _tell(self, client: Client, answer: dict[str, Any], descriptors: Sequence[int]) -> None:
        try:
            messages.send(client.channel, answer, descriptors)
        except OSError:
            self._drop(client)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _drop(self, client: Client) -> None:
        """What was plugged in over a connection ends with it."""
        self._clients.pop(client.channel.fileno(), None)
        self._loop.forget(client.channel.fileno())
        client.channel.close()
        for container in client.containers:
            self._unplug(container)
        client.containers.clear()

    def _unplug(self, container: str) -> None:
        try:
            self._networks.unplug(container)
        except OSError as error:
            # Its namespace goes all the same; what the rules still know of it leads nowhere.
            print(f"sandbox-kernel: unplug {container}: {error}", file=sys.stderr, flush=True)

    def _answer(
        self, client: Client, message: dict[str, Any], given: list[int]
    ) -> tuple[dict[str, Any], list[int]]:
        """The answer, and descriptors that go with it. Takes those of `given` that it keeps."""
        request = protocol.read(message)
        event = {"event": message["do"]}
        if isinstance(request, protocol.Plug):
            if len(given) != 1:
                raise StepFailed("plug", request.container, "no namespace came with it")
            answer = self._networks.plug(request, given[0])
            given.clear()
            client.containers.add(request.container)
            return {**event, **answer}, []
        if isinstance(request, protocol.Unplug):
            client.containers.discard(request.container)
            self._unplug(request.container)
            return event, []
        if isinstance(request, protocol.Stop):
            client.waits_for_end = True
            return event, []
        if isinstance(request, protocol.Capture):
            port = self._networks.port_of(request.container, request.network)
            return event, [capture.open_socket(port).detach()]
        if isinstance(request, protocol.Drops):
            answer = self._dropped(request)
            client.waits_for = request if request.wait and not answer["drops"] else None
            return {**event, **answer}, []
        return {**event, **self._others[type(request)](request)}, []

    def _answers(self) -> dict[type[protocol.Request], Callable[[Any], dict[str, Any]]]:
        networks = self._networks

        def disconnect(request: protocol.Disconnect) -> dict[str, Any]:
            networks.disconnect(request.container, request.network)
            return {}

        def remove(request: protocol.Remove) -> dict[str, Any]:
            networks.remove(request.name)
            return {}

        return {
            protocol.Hello: lambda _: {**self._about, "pid": os.getpid()},
            protocol.Name: lambda r: {"published": networks.name(r.container, r.name, r.publish)},
            protocol.Change: networks.change,
            protocol.Connect: lambda r: networks.connect(r.container, r.network),
            protocol.Disconnect: disconnect,
            protocol.Networks: lambda _: {"networks": networks.describe_all()},
            protocol.Create: lambda r: networks.create(r.name),
            protocol.Remove: remove,
            protocol.Inspect: lambda r: networks.describe(r.name),
            protocol.Plugged: lambda r: networks.describe_container(r.container),
            protocol.Facts: self._facts,
        }

    def _facts(self, request: protocol.Facts) -> dict[str, Any]:
        if request.container is None:
            return {"networks": self._networks.describe_all()}
        return facts.of_container(
            self._networks, self._spaces, self._resolver, self._drops, request.container
        )

    def _tell_of_drops(self) -> None:
        """Those who wait hear of what is new, whoever's question it was that took it in."""
        for client in list(self._clients.values()):
            if client.waits_for is not None and client.looked < self._drops.last:
                client.looked = self._drops.last
                answer = self._dropped(client.waits_for)
                if answer["drops"]:
                    told = {"event": "drops", "tag": client.waits_for.tag, **answer}
                    client.waits_for = None
                    self._tell(client, told, [])

    def _dropped(self, request: protocol.Drops) -> dict[str, Any]:
        container = request.container
        if container is not None and container not in self._networks.plugged:
            with contextlib.suppress(SandboxError):  # what was dropped of one that is over is kept
                container = self._networks.find(container).container
        return self._drops.after(request.after, container)


def main() -> None:
    """`holder DESCRIPTOR`, as `client` starts it: settings come over it, and the answer goes."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    received = messages.receive(channel)
    if received is None:
        return
    settings, _ = received
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends when nobody needs it
    processes.set_name("sandbox-network")
    folder = settings["folder"]
    lock = network_folders.hold(folder)
    if lock is None:
        messages.send(channel, {"event": "taken"})
        return
    try:
        holder = Holder(folder, lock, settings)
    except (SandboxError, OSError) as error:
        messages.send(channel, wiring.as_message(error))
        sys.exit(1)
    with contextlib.suppress(OSError):
        messages.send(channel, {"event": "ready"})
    channel.close()
    gc.collect()
    gc.freeze()
    holder.serve()
