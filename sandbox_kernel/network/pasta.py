"""A way out for an ordinary user: pasta(1), which makes each connection anew, as a program of his.

It gets a link into the holder's namespace, forwards no port by itself, and reaches nothing of the
machine's loopback. It gives up its rights at once and takes those that it needs by entering the
holder's user namespace; so who starts it has to be outside of that: the *starter*, a fork that
stays what the user is. Both end with the holder; when pasta ends before, its link goes, and with it
the way out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import NoReturn

from sandbox_kernel.errors import HostLacks
from sandbox_kernel.linux import messages, processes
from sandbox_kernel.network import links
from sandbox_kernel.network.loop import Loop
from sandbox_kernel.network.netlink import Netlink
from sandbox_kernel.network.spaces import Spaces

PLACES = ("/usr/bin/pasta", "/usr/local/bin/pasta", "/bin/pasta")
INSIDE = "out"
START_SECONDS = 5.0
_MOST_SAID = 500


def find() -> str | None:
    """Its absolute path, from a fixed list of folders."""
    return next((path for path in PLACES if os.access(path, os.X_OK)), None)


class Pasta:
    """See `networks.Outlet`."""

    def __init__(
        self,
        starter: socket.socket,
        spaces: Spaces,
        loop: Loop,
        own: Netlink,
        link: IPv4Network,
        ended: Callable[[], None],
    ) -> None:
        self._spaces = spaces
        self._loop = loop
        self._own = own
        self._gateway, self._address = (str(address) for address in list(link.hosts())[:2])
        self._bits = link.prefixlen
        self._ended = ended
        self._starter = starter
        self._pidfd = self._says = -1

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._pidfd >= 0

    def open(self) -> int:
        """Start it, and wait for its link. Raises HostLacks, OSError."""
        path = find()
        if path is None:
            raise HostLacks(
                "make a way out of the networks of an ordinary user: there is no `pasta` in "
                "/usr/bin: as root: apt-get install passt"
            )
        command = [
            path,
            *("--foreground", "--quiet", "--stderr", "--ipv4-only", "--no-map-gw"),
            *("--tcp-ports", "none", "--udp-ports", "none"),
            *("--tcp-ns", "none", "--udp-ns", "none"),
            *("--no-dhcp", "--dns", "none", "--search", "none"),
            *("--ns-ifname", INSIDE, "--mtu", "1500"),
            *("--address", self._address, "--netmask", str(self._bits)),
            *("--gateway", self._gateway),
        ]
        self._launch(command)
        try:
            index = self._await_link(path)
            links.switch_on(self._own, index)
            links.add_address(self._own, index, self._address, self._bits)
            links.add_default_route(self._own, self._gateway, index)
        except BaseException:
            self.close()
            raise
        self._loop.watch(self._pidfd, self._over)
        return index

    def close(self) -> None:
        """End it; its link goes with it."""
        if self._pidfd < 0:
            return
        self._loop.forget(self._pidfd)
        with contextlib.suppress(ProcessLookupError):
            processes.send_signal(self._pidfd, signal.SIGKILL)
        processes.wait_ended(self._pidfd)
        for descriptor in (self._pidfd, self._says):
            os.close(descriptor)
        self._pidfd = self._says = -1

    def _over(self, _: int) -> None:
        self.close()
        self._ended()

    def _launch(self, command: list[str]) -> None:
        user = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            order = {"command": command}
            messages.send(self._starter, order, [user, self._spaces.own])
            received = messages.receive(self._starter)
        finally:
            os.close(user)
        if received is None or not received[1]:
            why = received[0].get("why") if received else "who starts it ended"
            raise HostLacks(f"start `{command[0]}`: {why}: run the cell again")
        self._pidfd, self._says = received[1]

    def _await_link(self, path: str) -> int:
        deadline = time.monotonic() + START_SECONDS
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        while time.monotonic() < deadline and not poll.poll(5):
            with contextlib.suppress(OSError):
                return socket.if_nametoindex(INSIDE)
        with contextlib.suppress(ProcessLookupError):
            processes.send_signal(self._pidfd, signal.SIGKILL)
        processes.wait_ended(self._pidfd)
        said = os.read(self._says, _MOST_SAID).decode(errors="replace").split("\n")
        why = next((line for line in reversed(said) if line.strip()), "it made no link")
        raise HostLacks(
            f"make a way out by `{path}`: {why.strip()}: it needs /dev/net/tun that you may open, "
            "and a default route of this machine"
        )


def fork_starter() -> socket.socket:
    """Fork who starts pasta, from a process with one thread, before it enters a namespace."""
    ours, theirs = messages.pair()
    holder = os.getpid()
    if os.fork():
        theirs.close()
        return ours
    try:
        processes.close_all_but((2, theirs.fileno()))
        processes.set_name("sandbox-starter")
        processes.prctl(processes.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
        if os.getppid() == holder:
            _serve(theirs)
    finally:
        os._exit(0)


def _serve(channel: socket.socket) -> None:
    while (received := messages.receive(channel)) is not None:
        message, given = received
        said, says = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _execute(message["command"], given, says)
        pidfd = processes.pidfd_open(pid)
        messages.send(channel, {}, [pidfd, said])
        for descriptor in (pidfd, said, says, *given):
            os.close(descriptor)


def _execute(command: list[str], given: list[int], says: int) -> NoReturn:
    try:
        processes.prctl(processes.PR_SET_PDEATHSIG, signal.SIGKILL)
        for handled in (signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(handled, signal.SIG_DFL)
        # Above the numbers that are given away now.
        user, space = (fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in given)
        nothing, says = (
            os.open("/dev/null", os.O_RDWR),
            fcntl.fcntl(says, fcntl.F_DUPFD_CLOEXEC, 10),
        )
        for number, descriptor in enumerate((nothing, nothing, says)):
            os.dup2(descriptor, number)
        entering = ["--userns", f"/proc/self/fd/{user}", "--netns", f"/proc/self/fd/{space}"]
        os.chdir("/")
        os.execve(command[0], [*command, *entering], {"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
    except OSError as error:
        os.write(2, f"{os.strerror(error.errno or 0)}\n".encode())
    finally:
        os._exit(127)
