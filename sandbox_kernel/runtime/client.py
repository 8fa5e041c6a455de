"""The program's side of the launcher: starting it, and one channel for each container or run."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from sandbox_kernel import errors
from sandbox_kernel.linux import inotify, messages
from sandbox_kernel.runtime import state
from sandbox_kernel.runtime.cgroups import memory_kills, systemd

if TYPE_CHECKING:
    from collections.abc import Mapping

START_SECONDS = 20.0
ANSWER_SECONDS = 60.0
END_SECONDS = 1.0
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from sandbox_kernel.runtime.launcher import main; main()"
)


class Channel:
    """One conversation with a launcher. Not for two threads at once. Close it when done."""

    def __init__(
        self,
        channel: socket.socket,
        launcher: Launcher | None = None,
        theirs: socket.socket | None = None,
    ) -> None:
        self._socket = channel
        self._launcher = launcher
        self._theirs = theirs
        """The launcher's end, until it gets it together with the first request."""

    def fileno(self) -> int:
        """Readable when a message or the end is there."""
        return self._socket.fileno()

    def ask(
        self, operation: str, message: Mapping[str, Any], descriptors: tuple[int, ...] = ()
    ) -> None:
        """Send a request. Raises LauncherGone."""
        try:
            request = {"op": operation, **message}
            if self._theirs is not None and self._launcher is not None:
                self._launcher.hand_over(self._theirs, request, descriptors)
                self._theirs = None
            else:
                messages.send(self._socket, request, descriptors)
        except OSError as error:
            raise self._gone() from error

    def hear(self, timeout: float | None = None) -> tuple[dict[str, Any], list[int]]:
        """The next answer and its descriptors, which are the caller's now.

        Raises what the launcher reports, LauncherGone, and TimeoutError after `timeout` seconds.
        """
        if timeout is not None:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(timeout * 1000):
                raise TimeoutError(f"the launcher did not answer within {timeout:g} s")
        try:
            received = messages.receive(self._socket)
        except OSError as error:
            raise self._gone() from error
        if received is None:
            raise self._gone()
        answer, descriptors = received
        if answer.get("event") == "error":
            for descriptor in descriptors:
                os.close(descriptor)
            raise _as_exception(answer)
        return answer, descriptors

    def request(self, operation: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Ask and hear one answer that has no descriptors."""
        self.ask(operation, message)
        answer, descriptors = self.hear(ANSWER_SECONDS)
        for descriptor in descriptors:
            os.close(descriptor)
        return answer

    def _gone(self) -> errors.LauncherGone:
        return self._launcher.gone() if self._launcher else _gone()

    def close(self) -> None:
        """What was made over this channel ends with it."""
        self._socket.close()
        if self._theirs is not None:
            self._theirs.close()


class Launcher:
    """A launcher process. `detached` ones live on until their last container ends."""

    def __init__(self, *, detached: bool = False, holder: bool = False) -> None:
        import subprocess  # which who has a holder does without

        # Raises here, with the remedy, rather than in the child.
        self.name = state.new_name(state.runtime_folder())
        ask_systemd = systemd.is_wanted()
        ours, theirs = messages.pair()
        self._memory_kills = memory_kills.Counter()
        words = [self.name]
        if detached:
            words.append("stays")
        if holder:
            words.append("holder")
        if ask_systemd:
            words.append("scope")
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *("-I", "-S", "-c", _PROGRAM, _PACKAGE_PARENT),
                    str(theirs.fileno()),
                    *words,
                ],
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if detached else None,
                env=_environment(),
            )
        self.pid = self._process.pid
        self._main = ours
        if ask_systemd:
            self._tell_scope()
        self._about: dict[str, Any] | None = None
        self._lock = threading.Lock()
        self.hung_up = False
        """Whether it closed a channel, as its end does, since `alive` was asked."""

    def __del__(self) -> None:
        """At the end of the program, of which the launcher hears: it ends by itself, and Python is
        not to warn of what nobody closed."""
        if sys.is_finalizing() and hasattr(self, "_main"):
            self._main.close()
            self._process.returncode = 0

    def _tell_scope(self) -> None:
        """Get the launcher a place in the tree that systemd holds, or tell it why it has none."""
        try:
            message = {"parent": systemd.delegated_scope(self.pid, self.name)}
        except errors.HostLacks as error:
            message = {"lacks": str(error)}
        with contextlib.suppress(OSError):  # it ended: `about` says so
            messages.send(self._main, message)

    @property
    def about(self) -> dict[str, Any]:
        """What the launcher found: driver, support (limit to reason), ids, what was left."""
        with self._lock:
            if self._about is None:
                about, _ = Channel(self._main).hear(START_SECONDS)
                self._about = about
            return self._about

    def connect(self) -> Channel:
        """A new channel, of which the launcher hears with its first request, so that it wakes
        once. May be called from any thread."""
        ours, theirs = messages.pair()
        return Channel(ours, self, theirs)

    def hand_over(
        self, theirs: socket.socket, request: Mapping[str, Any], descriptors: tuple[int, ...]
    ) -> None:
        """Give the launcher its end of a channel, which is closed here, and the first request of
        it. Raises OSError."""
        with theirs:
            messages.send(self._main, dict(request), (theirs.fileno(), *descriptors))

    def alive(self) -> bool:
        """Whether the process still runs. Of one that is just ending the end is awaited."""
        if self.hung_up:
            import subprocess

            self.hung_up = False
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        return self._process.poll() is None

    def gone(self) -> errors.LauncherGone:
        """What to raise since it closed a channel, with the cause, if that is known."""
        import subprocess

        self.hung_up = True
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return errors.LauncherGone(
                "talk to the launcher: it closed the channel, and goes on: mostly it has no "
                "descriptor left: end containers, or have a higher limit (`ulimit -n`) where the "
                "program is started"
            )
        killed = self._process.returncode == -signal.SIGKILL
        return _gone(for_memory=killed and self._memory_kills.grew())

    def stop_pool(self) -> None:
        """End its templates, and the containers that nobody has; returns when they are gone."""
        _stop_pool_of(self)

    def pool(self) -> list[dict[str, Any]]:
        """Its templates: modules, state, how many containers are ready and in use."""
        return _pool_of(self)

    def let_go(self) -> None:
        """A detached launcher goes on without us."""
        self.about  # noqa: B018 - it must have taken over before we leave
        self._main.close()

    def close(self) -> None:
        """End the launcher and all its containers; returns when nothing is left."""
        import subprocess

        self._main.close()
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def open_control(folder: str) -> Channel:
    """A channel to a launcher of another program of this user, by its folder."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        channel.connect(f"{folder}/control.sock")
    except OSError as error:
        channel.close()
        raise _gone() from error
    return Channel(channel)


def control_folders() -> list[str]:
    """The folders of all live launchers of this user."""
    runtime = state.runtime_folder()
    return [f"{runtime}/launchers/{name}" for name in state.live_launchers(runtime)]


def watch_launchers() -> int:
    """A descriptor that is readable when a launcher of this user started; read it empty."""
    return inotify.watch_created(state.launchers_folder(state.runtime_folder()))


class Holder:
    """The warm holder of this user: a launcher that keeps templates between programs (D2)."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        channel = open_control(folder)
        try:
            self.about = channel.request("about", {})
        finally:
            channel.close()

    def connect(self) -> Channel:
        """A new channel. What is made over it ends with it. Raises LauncherGone."""
        return open_control(self.folder)

    def pool(self) -> list[dict[str, Any]]:
        """As `Launcher.pool`."""
        return _pool_of(self)

    def stop(self) -> None:
        """It drops what it keeps, and ends with the last container that somebody has."""
        _stop_pool_of(self)


def find_holder() -> Holder | None:
    """The warm holder of this user, None when there is none."""
    runtime = state.runtime_folder()
    name = state.holder(runtime)
    if name is None:
        return None
    try:
        return Holder(f"{runtime}/launchers/{name}")
    except (errors.SandboxError, TimeoutError):
        return None  # it is ending


def start_holder() -> Holder | None:
    """The warm holder, started if there is none."""
    found = find_holder()
    if found is None:
        launcher = Launcher(detached=True, holder=True)
        launcher.let_go()
        found = find_holder()
    return found


def stop_holder() -> None:
    """End the warm holder of this user; returns when all that only waited in it is gone."""
    holder = find_holder()
    if holder is not None:
        with contextlib.suppress(errors.LauncherGone):
            holder.stop()


_shared: tuple[int, Launcher] | None = None
_shared_lock = threading.Lock()


def shared() -> Launcher:
    """The launcher of this process, started by the first call, again after it died or a fork."""
    global _shared  # noqa: PLW0603 - one launcher for each program is the design (D1)
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid() or not _shared[1].alive():
            _shared = (os.getpid(), Launcher())
        return _shared[1]


def end_shared() -> None:
    """End the launcher of this process with all its containers, if there is one."""
    global _shared
    with _shared_lock:
        known, _shared = _shared, None
    if known and known[0] == os.getpid():
        known[1].close()


def _stop_pool_of(launcher: Launcher | Holder) -> None:
    channel = launcher.connect()
    try:
        channel.request("pool", {"do": "stop"})
    finally:
        channel.close()


def pool_of(launcher: Launcher | Holder) -> dict[str, Any]:
    """What a launcher keeps ready: its `templates`, and the `bounds` of that (see `Pool`)."""
    channel = launcher.connect()
    try:
        return channel.request("pool", {"do": "status"})
    finally:
        channel.close()


def _pool_of(launcher: Launcher | Holder) -> list[dict[str, Any]]:
    templates: list[dict[str, Any]] = pool_of(launcher)["templates"]
    return templates


def stop_pool() -> None:
    """End what the launcher of this process keeps ready. Nothing happens when there is none."""
    with _shared_lock:
        known = _shared
    if known and known[0] == os.getpid() and known[1].alive():
        with contextlib.suppress(errors.LauncherGone):
            known[1].stop_pool()


def _environment() -> dict[str, str]:
    """A fixed environment: nothing of the caller's reaches a process with rights."""
    kept = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    if os.getuid() != 0 and "XDG_RUNTIME_DIR" in os.environ:
        kept["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"]
    return kept


def _gone(*, for_memory: bool = False) -> errors.LauncherGone:
    if for_memory:
        return errors.LauncherGone(
            "talk to the launcher: it ended, and its containers with it, when the kernel ended "
            "processes of this program's control group for want of memory: give this program more "
            "memory, or let it hold less, and run the cell again"
        )
    return errors.LauncherGone(
        "talk to the launcher: it ended, and its containers with it: run the cell again"
    )


def _as_exception(answer: Mapping[str, Any]) -> Exception:
    kind = getattr(errors, str(answer.get("kind")), None)
    arguments = answer.get("arguments")
    if kind is not None and arguments:
        error: Exception = kind(*arguments)
    elif isinstance(kind, type) and issubclass(kind, errors.SandboxError):
        error = kind(answer["text"])
    else:
        error = errors.ContainerError(str(answer.get("text")))
    return error


def wait_until(deadline: float | None) -> float | None:
    """Seconds left until a moment of the monotonic clock, never negative."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
