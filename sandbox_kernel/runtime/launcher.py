"""The launcher: a small single-threaded process that makes containers and does every fork (D1).

Started once for each program by `client.Launcher`, as `python -I -S`, with one end of a socket
pair. It holds no secret of its caller and imports next to nothing, since each pid 1 is a fork of
it. It waits in one loop; nothing in it blocks for long.

Here is its life: its folder, where programs find it, and when it ends. Over the first socket the
program sends channels, each with the first request of it; what is asked over each is in
`containers`. A path socket in the launcher's 0700 folder gives the same to other programs of the
same user.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time

from sandbox_kernel.errors import SandboxError, StepFailed
from sandbox_kernel.linux import inotify, messages, mounts, processes
from sandbox_kernel.runtime import (
    identities,
    network_folders,
    sharing,
    state,
    wiring,
)
from sandbox_kernel.runtime.cgroups import absent, choose
from sandbox_kernel.runtime.containers import Containers, receive
from sandbox_kernel.runtime.held import Sources
from sandbox_kernel.runtime.loop import Loop
from sandbox_kernel.runtime.pool import HOLDER_SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox_kernel.runtime.cgroups.contract import Driver

IDLE_CHECK_SECONDS = 5.0

# struct ucred of unix(7): pid, uid, gid
_UCRED_SIZE = 12


class Launcher:
    """The process, from its start to its end."""

    def __init__(
        self,
        main: socket.socket,
        runtime: str,
        name: str,
        driver: Driver,
        *,
        stays: bool,
        holds: bool = False,
    ) -> None:
        self._runtime = runtime
        self._main = main
        self._stays = stays
        self._loop = Loop()
        self._ids = identities.RANGE
        self._reserve: identities.Reserve | None = None
        self._driver = driver
        shared = -1
        if os.getuid() != 0:
            self._ids, shared = sharing.enter(runtime)
        else:
            self._reserve = identities.Reserve(f"{runtime}/ids")
            processes.unshare(processes.CLONE_NEWNS)
        # So that a disk of later can be a source of mounts too, and none is kept from going.
        mounts.make_slave()
        gone = state.sweep(runtime)
        network_folders.sweep(runtime)
        # Asked when a group was seen: its launcher may have started during this very sweep.
        groups = self._driver.sweep(
            lambda other: (
                other == name
                or not state.is_named_here(runtime, other)
                or state.is_live(runtime, other)
            )
        )
        self._is_lost = False
        self._holder: int | None = None
        self._folder = state.LauncherFolder(runtime, name)
        try:
            self._set_up(name, holds=holds)
        except BaseException:
            self._is_lost = True  # as far as it came
            self._loop.close()  # to look into the folder takes a descriptor, if none is left
            self._leave()
            raise
        if shared >= 0:
            os.close(shared)
        self._loop.watch(main.fileno(), self._hear_main)
        self._containers.about = {
            "ids": self._ids,
            "driver": self._driver.name,
            "support": self._driver.support(),
            "swept": gone,
            "left": groups.left,
            "folder": self._folder.path,
            "space": wiring.space(),
        }

    def _set_up(self, name: str, *, holds: bool) -> None:
        """What is in our folder, and all that needs descriptors. Raises OSError."""
        runtime = self._runtime
        self._holder = state.become_holder(runtime, name) if holds else None
        self._holds = self._holder is not None
        self._idle_since = time.monotonic()
        sources = f"{self._folder.path}/sources"
        os.mkdir(sources, 0o700)
        self._containers = Containers(
            self._loop,
            self._driver,
            self._ids,
            launcher=name,
            runtime=runtime,
            sources=Sources(sources),
            reserve=self._reserve,
            holds=self._holds,
            stop_holding=self._stop_holding,
        )
        # The folder itself is needed no more; the mounts on it hold on to it in this namespace.
        self._listen = self._open_control()
        self._spare = os.open("/", os.O_PATH | os.O_CLOEXEC)
        removals = inotify.watch_removed(self._folder.path)
        self._loop.watch(removals, lambda: self._look_after_place(removals))
        self._children = processes.child_signal_descriptor()
        self._loop.watch(self._children, self._reap)

    def serve(self) -> None:
        """Until the program lets go of the first socket (or, detached, of the last container)."""
        try:
            self._greet()
            while not self._is_lost and (
                self._main.fileno() >= 0 or self._containers.has_any() or self._holds
            ):
                self._loop.turn(self._time_left())
                now = time.monotonic()
                self._containers.end_overdue(now)
                if self._holds:
                    self._end_when_idle(now)
        finally:
            self._containers.close()
            self._stop_holding()
            self._listen.close()
            self._leave()

    def _leave(self) -> None:
        """Nothing of us stays in the runtime folder."""
        try:
            mounts.detach(f"{self._folder.path}/sources")
            os.rmdir(f"{self._folder.path}/sources")
        except OSError:
            if not self._is_lost:
                raise
        self._folder.remove()

    def _greet(self) -> None:
        """Say what there is, and have a place ready while the program makes up its mind."""
        try:
            messages.send(self._main, {"event": "ready", **self._containers.about})
        except OSError:
            return  # it ended meanwhile, which the loop hears
        self._containers.get_ready()

    def _reap(self) -> None:
        """Whom a maker left to us when it was ended: a pid namespace waits for all of its own."""
        os.read(self._children, 4096)
        processes.reap_all()

    def _time_left(self) -> float:
        dues = [] if (due := self._containers.next_due()) is None else [due]
        if self._holds:
            dues.append(time.monotonic() + IDLE_CHECK_SECONDS)
        return max(0.0, min(dues) - time.monotonic()) if dues else -1

    def _end_when_idle(self, now: float) -> None:
        """A holder that nobody uses has no reason to be, nor one that nobody finds any more."""
        name = self._folder.name
        if self._holder and not state.stays_holder(self._runtime, name, self._holder):
            self._stop_holding()
            return
        if self._containers.are_used():
            self._idle_since = now
        elif now - max(self._idle_since, self._containers.pool.last_use) > HOLDER_SECONDS:
            self._stop_holding()

    def _stop_holding(self) -> None:
        """Ends with the last container that somebody has."""
        self._holds = False
        if self._holder is not None:
            state.stop_being_holder(self._runtime, self._folder.name, self._holder)
            self._holder = None
        self._containers.pool.stop("the holder ended")

    # --- who finds us

    def _hear_main(self) -> None:
        try:
            received = receive(self._main)
        except ValueError as error:
            # No descriptor was left for what came with it; who sent it hears the end of it.
            print(f"sandbox-kernel: hear the program: {error}", file=sys.stderr, flush=True)
            return
        if received is None:
            self._loop.forget(self._main.fileno())
            self._main.close()
            if not self._holds:
                self._containers.pool.stop("its program ended")
            if not self._stays:
                self._containers.kill_all("its program ended")
            return
        request, (channel, *descriptors) = received
        self._containers.add_client(messages.channel(channel), request, descriptors)

    def _open_control(self) -> socket.socket:
        """The socket in our folder by which other programs of this user find us."""
        listen = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        before = os.umask(0o077)  # whatever the caller's is: the socket is for its owner
        listen.bind(f"{self._folder.path}/control.sock")
        os.umask(before)
        listen.listen(16)
        listen.setblocking(False)
        self._loop.watch(listen.fileno(), self._accept)
        return listen

    def _turn_away(self) -> None:
        """No descriptor is left for who waits at our socket, and it would wake us for ever."""
        os.close(self._spare)
        try:
            self._listen.accept()[0].close()
        except OSError as error:
            print(f"sandbox-kernel: hear a program: {error}", file=sys.stderr, flush=True)
        finally:
            self._spare = os.open("/", os.O_PATH | os.O_CLOEXEC)

    def _look_after_place(self, removals: int) -> None:
        """Somebody removed something by hand. Without its lock a launcher is dead to all others,
        who take its groups away: it ends. Its socket is made again."""
        os.read(removals, 4096)
        if not self._folder.is_ours():
            self._is_lost = True
        elif not os.path.lexists(f"{self._folder.path}/control.sock"):
            self._loop.forget(self._listen.fileno())
            self._listen.close()
            self._listen = self._open_control()

    def _accept(self) -> None:
        try:
            channel, _ = self._listen.accept()
        except BlockingIOError:
            return  # who waited has gone again
        except OSError:
            self._turn_away()
            return
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED_SIZE)
        uid = int.from_bytes(credentials[4:8], sys.byteorder)
        if uid == os.getuid():
            self._containers.add_client(channel)
        else:
            channel.close()


def _scope_driver(channel: socket.socket) -> Driver:
    """The driver for the scope that the program got from systemd for this process."""
    received = messages.receive(channel)
    if received is None:
        sys.exit(1)
    message = received[0]
    return absent.Driver(message["lacks"]) if "lacks" in message else choose(message["parent"])


def main() -> None:
    """`launcher DESCRIPTOR NAME [stays] [holder] [scope]`, as `client` starts it.

    With `scope`, the first message tells the group to be at home in (`parent`), or what it `lacks`.
    """
    descriptor, name, *words = sys.argv[1:]
    channel = socket.socket(fileno=int(descriptor))
    channel.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # A terminal's Ctrl-C is for the program; the launcher ends when the program does.
        signal.signal(number, signal.SIG_IGN)
    processes.set_name("sandbox-launch")
    os.umask(0o022)  # whatever the program's is: what containers share is for all of their users
    # What a maker leaves when it ends stays below the launcher, which reaps it.
    processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
    runtime = ""
    try:
        # Before the user namespace is entered: folder and driver look at who we are.
        runtime = state.runtime_folder()
        processes.argument_area()  # asked here, where /proc is the host's, for every fork to know
        driver = _scope_driver(channel) if "scope" in words else choose()
        launcher = Launcher(
            channel, runtime, name, driver, stays="stays" in words, holds="holder" in words
        )
    except SandboxError as error:
        messages.send(channel, wiring.as_message(error))
        sys.exit(1)
    except OSError as error:
        why = error.strerror or str(error)
        place = error.filename or runtime
        failed = StepFailed("start a launcher in", str(place), why, error.errno or 0)
        messages.send(channel, wiring.as_message(failed))
        sys.exit(1)
    # Forks share what lives for ever and never look through it for garbage: fewer pages to copy.
    gc.collect()
    gc.freeze()
    launcher.serve()
