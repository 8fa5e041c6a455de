"""The launcher: a small single-threaded process that makes containers and does every fork (D1).

Started once for each program by `client.Launcher`, as `python -I -S`, with one end of a socket
pair. It holds no secret of its caller and imports next to nothing, since each pid 1 is a fork of
it. It waits in one epoll loop; nothing in it blocks for long.

Channels. Over the first socket the program sends new ones ("connect"). On each of those it asks
for one thing at a time; the container or run that it made belongs to it, and ends when it closes.
A path socket in the launcher's 0700 folder gives the same to other programs of the same user.

Requests (`op`): create, run, limits, usage, stop, kill, kill-run, remove, list, writable.
Answers (`event`): created, started, exited, limits, usage, stopping, removed, list, writable,
error.
"""

from __future__ import annotations

import gc
import heapq
import os
import select
import signal
import socket
import sys
import time

from sandbox_kernel.errors import LimitNotEnforceable, NoSuchContainer, SandboxError, StepFailed
from sandbox_kernel.linux import messages, mounts, processes
from sandbox_kernel.runtime import identities, state
from sandbox_kernel.runtime.cgroups import choose
from sandbox_kernel.runtime.held import Held, Run, Sources, prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RECIPE = ("config", "layers", "entries", "trees", "storage_size", "seccomp_program")
MOST_RECIPES = 32

# struct ucred of unix(7): pid, uid, gid
_UCRED_SIZE = 12


class Client:
    """One channel to a program, and what belongs to it."""

    __slots__ = ("channel", "held", "run", "waits_for_removal")

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.held: Held | None = None
        self.run: tuple[Held, Run] | None = None
        self.waits_for_removal = False


class Launcher:
    """The loop and its tables. Each descriptor that is waited for has a function to call."""

    def __init__(self, main: socket.socket, name: str, *, stays: bool, parent: str | None) -> None:
        self._ordinary = os.getuid() != 0
        runtime = state.runtime_folder()
        self._main = main
        self._stays = stays
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._containers: dict[str, Held] = {}
        self._owners: dict[str, Client | None] = {}
        self._deadlines: list[tuple[float, str, int]] = []
        self._recipes: dict[str, dict[str, Any]] = {}
        self._ids = identities.RANGE
        self._reserve: identities.Reserve | None = None
        # Before the user namespace is entered: the driver looks at who we are.
        self._driver = choose(parent)
        if self._ordinary:
            self._ids = identities.become_root_of_own_namespace()
        else:
            self._reserve = identities.Reserve(f"{runtime}/ids")
            processes.unshare(processes.CLONE_NEWNS)
        mounts.make_private()
        gone = state.sweep(runtime)
        alive = set(state.live_launchers(runtime)) | {name}
        self._driver.sweep(lambda launcher: launcher in alive)
        self._folder = state.LauncherFolder(runtime, name)
        sources = f"{self._folder.path}/sources"
        os.mkdir(sources, 0o700)
        self._sources = Sources(sources)
        # The folder itself is needed no more; the mounts on it hold on to it in this namespace.
        self._listen = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        before = os.umask(0o077)  # whatever the caller's is: the socket is for its owner
        self._listen.bind(f"{self._folder.path}/control.sock")
        os.umask(before)
        self._listen.listen(16)
        self._watch(self._listen.fileno(), self._accept)
        self._watch(main.fileno(), self._hear_main)
        support = self._driver.support()
        messages.send(
            main,
            {
                "event": "ready",
                "ids": self._ids,
                "driver": self._driver.name,
                "support": support,
                "swept": gone,
                "folder": self._folder.path,
            },
        )

    # --- the loop

    def serve(self) -> None:
        """Until the program lets go of the first socket (or, detached, of the last container)."""
        try:
            while self._main.fileno() >= 0 or self._containers:
                for descriptor, _ in self._epoll.poll(self._time_left()):
                    handler = self._handlers.get(descriptor)
                    if handler:
                        handler()
                self._end_overdue()
        finally:
            for held in list(self._containers.values()):
                held.kill("the launcher ended")
                self._end(held)
            self._listen.close()
            mounts.detach(f"{self._folder.path}/sources")
            os.rmdir(f"{self._folder.path}/sources")
            self._folder.remove()

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLIN)

    def _forget(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None):
            self._epoll.unregister(descriptor)

    def _time_left(self) -> float:
        if not self._deadlines:
            return -1
        return max(0.0, self._deadlines[0][0] - time.monotonic())

    def _end_overdue(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, container, number = heapq.heappop(self._deadlines)
            held = self._containers.get(container)
            if held is None:
                continue
            if number < 0:
                held.kill("stopped")
            elif number in held.runs:
                held.kill_run(held.runs[number], "timed-out")

    # --- channels

    def _hear_main(self) -> None:
        received = _receive(self._main)
        if received is None:
            self._forget(self._main.fileno())
            self._main.close()
            if not self._stays:
                for held in list(self._containers.values()):
                    held.kill("its program ended")
            return
        for descriptor in received[1]:
            self._add_client(socket.socket(fileno=descriptor))

    def _accept(self) -> None:
        channel, _ = self._listen.accept()
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED_SIZE)
        uid = int.from_bytes(credentials[4:8], sys.byteorder)
        if uid == os.getuid():
            self._add_client(channel)
        else:
            channel.close()

    def _add_client(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        client = Client(channel)
        self._watch(channel.fileno(), lambda: self._hear(client))

    def _hear(self, client: Client) -> None:
        try:
            received = _receive(client.channel)
        except BlockingIOError:
            return
        except ValueError as error:
            self._answer(client, _error(StepFailed("read", "a request", str(error))))
            return
        if received is None:
            self._drop(client)
            return
        message, descriptors = received
        owned = list(descriptors)
        try:
            handler = _OPERATIONS.get(message.get("op", ""))
            if handler is None:
                raise StepFailed("read", str(message.get("op")), "no such request")
            handler(self, client, message, owned)
        except (SandboxError, OSError, KeyError, ValueError, TypeError) as error:
            self._answer(client, _error(error))
        finally:
            for descriptor in owned:
                os.close(descriptor)

    def _drop(self, client: Client) -> None:
        self._forget(client.channel.fileno())
        client.channel.close()
        if client.run:
            held, run = client.run
            if run.number in held.runs:
                held.kill_run(run, "its program ended")
        if client.held and client.held.id in self._containers:
            self._owners[client.held.id] = None
            client.held.kill("its program ended")

    def _answer(
        self, client: Client | None, message: dict[str, Any], descriptors: tuple[int, ...] = ()
    ) -> None:
        if client is None or client.channel.fileno() < 0:
            return
        try:
            messages.send(client.channel, message, descriptors)
        except OSError:
            # Gone, or it does not read: either way it gets nothing more.
            self._drop(client)

    # --- requests

    def _create(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        name = message.get("name")
        if name and any(held.order.get("name") == name for held in self._containers.values()):
            raise StepFailed("create", name, "a container of this name exists: remove it first")
        recipe = self._recipe_of(message)
        if recipe is None:
            self._answer(client, {"event": "recipe-wanted"})
            return
        message = {**recipe, **message}
        held = Held(
            message,
            driver=self._driver,
            launcher=self._folder.name,
            sources=self._sources,
            reserve=self._reserve,
            ids=self._ids,
        )
        process = message.get("process")
        if process:
            numbers = dict(zip(message["numbers"], owned, strict=True))
            owned.clear()
            held.runs[0] = run = Run(0, client, None, message.get("timeout"))
            client.run = (held, run)
        else:
            numbers = {}
        message["created"] = time.time()
        try:
            held.clone(numbers, [])
        except BaseException:
            held.end()
            raise
        self._containers[held.id] = held
        self._owners[held.id] = client
        if not message.get("keep"):
            client.held = held
        self._watch(held.channel.fileno(), lambda: self._hear_init(held))
        self._watch(held.pidfd, lambda: self._end(held))
        if held.oom_fd >= 0:
            self._watch(held.oom_fd, lambda: self._hear_oom(held))

    def _recipe_of(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """What of an order depends on plan and image alone: it came with it, or with another."""
        digest: str = message["recipe"]
        if digest not in self._recipes:
            if "config" not in message:
                return None
            if len(self._recipes) >= MOST_RECIPES:
                del self._recipes[next(iter(self._recipes))]
            self._recipes[digest] = prepare({name: message[name] for name in RECIPE})
        return self._recipes[digest]

    def _run(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        held = self._find(message["container"])
        numbers = dict(zip(message["numbers"], owned, strict=True))
        owned.clear()
        run = held.start(client, message["process"], numbers, message.get("timeout"))
        client.run = (held, run)

    def _limits(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        held = self._find(message["container"])
        if message.get("resources"):
            held.group.update(message["resources"])
        self._answer(client, {"event": "limits", "limits": held.group.limits()})

    def _usage(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        held = self._find(message["container"])
        self._answer(client, {"event": "usage", "usage": held.usage()})

    def _stop(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        """SIGTERM to the runs' leaders is sent by the caller, who holds their pidfds."""
        held = self._find(message["container"])
        deadline = time.monotonic() + float(message.get("timeout", 0))
        heapq.heappush(self._deadlines, (deadline, held.id, -1))
        self._answer(client, {"event": "stopping"})

    def _kill(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        self._find(message["container"]).kill(message.get("reason", "killed"))
        self._answer(client, {"event": "stopping"})

    def _kill_run(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        held = self._find(message["container"])
        run = held.runs.get(message["run"])
        if run:
            held.kill_run(run, message.get("reason", "killed"))
        self._answer(client, {"event": "stopping"})

    def _remove(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        held = self._find(message["container"])
        held.order.setdefault("waiting", []).append(client)
        held.kill("removed")

    def _list(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        rows = [
            {
                "id": held.id,
                "name": held.order.get("name"),
                "pid": held.pid,
                "created": held.order["created"],
                "about": held.order.get("about"),
                "runs": sorted(held.runs),
                "groups": held.group.paths(),
                "ready": held.ready,
            }
            for held in self._containers.values()
        ]
        self._answer(client, {"event": "list", "containers": rows})

    def _writable(self, client: Client, message: dict[str, Any], owned: list[int]) -> None:
        """A descriptor of the writable layer, for `diff`; where it came from is in the order."""
        held = self._find(message["container"])
        self._answer(
            client,
            {"event": "writable", "layered": bool(held.order.get("layers"))},
            (held.writable,),
        )

    def _find(self, reference: str) -> Held:
        held = self._containers.get(reference)
        if held is None or held.reason:
            raise NoSuchContainer(f"find container `{reference}`: it is not running")
        return held

    # --- what containers say

    def _hear_init(self, held: Held) -> None:
        try:
            received = _receive(held.channel)
        except BlockingIOError:
            return
        if received is None:
            self._forget(held.channel.fileno())
            return
        message, descriptors = received
        try:
            self._on_init(held, message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _on_init(self, held: Held, message: dict[str, Any], descriptors: list[int]) -> None:
        at = message["at"]
        owner = self._owners.get(held.id)
        if at == "ready":
            held.ready = True
            held.writable = descriptors.pop()
            self._answer(
                owner,
                {
                    "event": "created",
                    "id": held.id,
                    "pid": held.pid,
                    "limits": held.limits,
                    "groups": held.group.paths(),
                },
            )
        elif at == "failed":
            held.order["failed"] = message
        elif at == "forked":
            run = held.runs.get(message["run"])
            if run is None:
                return
            held.forked(run, descriptors[0])
            if run.timeout is not None:
                deadline = time.monotonic() + run.timeout
                heapq.heappush(self._deadlines, (deadline, held.id, run.number))
            self._answer(
                run.client,  # type: ignore[arg-type] # Held does not know what a client is
                {"event": "started", "run": run.number},
                (descriptors[0],),
            )
        elif at == "exited":
            self._on_exit(held, message)

    def _on_exit(self, held: Held, message: dict[str, Any]) -> None:
        run = held.runs.pop(message["run"], None)
        if run is None:
            return
        out_of_memory = message.get("signal") == signal.SIGKILL and held.group.oom_kills() > 0
        if out_of_memory:
            held.reason = held.reason or "out-of-memory"
        self._say_exited(held, run, message, "out-of-memory" if out_of_memory else None)
        held.end_run(run)
        if held.single or out_of_memory:
            held.kill("over")

    def _say_exited(
        self, held: Held, run: Run, message: dict[str, Any], reason: str | None
    ) -> None:
        answer = {
            "event": "exited",
            "run": run.number,
            "status": message.get("status"),
            "signal": message.get("signal"),
            "failure": message.get("failure"),
            "reason": reason or run.reason or held.reason,
            "usage": held.usage(),
            "limits": held.group.limits() if reason or held.reason else None,
        }
        if run.timeout is not None:
            answer["timeout"] = run.timeout
        self._answer(run.client, answer)  # type: ignore[arg-type] # as above

    def _hear_oom(self, held: Held) -> None:
        """The kernel ended a process of the group: on cgroup v1 we end the others (D4)."""
        os.read(held.oom_fd, 4096)
        # The kernel says so before it chooses what to end, so its counter may still be 0.
        held.kill("out-of-memory")

    def _end(self, held: Held) -> None:
        """Pid 1 is gone, and with it all processes of the container."""
        while held.channel.fileno() in self._handlers:
            # What it said last comes before its end.
            try:
                self._hear_init(held)
            except BlockingIOError:
                break
            if not _readable(held.channel):
                break
        if held.reason is None and held.group.oom_kills() > 0:
            held.reason = "out-of-memory"
        for run in list(held.runs.values()) if held.ready else ():
            if held.reason is None:
                held.reason = "killed"
            self._say_exited(held, run, {"signal": int(signal.SIGKILL)}, None)
        self._forget(held.channel.fileno())
        self._forget(held.pidfd)
        if held.oom_fd >= 0:
            self._forget(held.oom_fd)
        owner = self._owners.pop(held.id, None)
        del self._containers[held.id]
        failure: SandboxError | None = None
        try:
            held.end()
        except (SandboxError, OSError) as error:
            failure = StepFailed("remove", held.id, str(error))
            # Said in any case, and tried again by the sweep of the next start.
            print(f"sandbox-kernel: {failure}", file=sys.stderr, flush=True)
        if not held.ready:
            said = held.order.get("failed") or {
                "step": "make",
                "subject": held.id,
                "why": f"it ended before it was ready ({held.reason or 'killed'})",
            }
            self._answer(
                owner,
                _error(
                    StepFailed(said["step"], said["subject"], said["why"], said.get("errno") or 0)
                ),
            )
        for client in held.order.get("waiting", ()):
            self._answer(client, _error(failure) if failure else {"event": "removed"})
        if client_held := owner:
            client_held.held = None


_OPERATIONS: dict[str, Callable[[Launcher, Client, dict[str, Any], list[int]], None]] = {
    "create": Launcher._create,
    "run": Launcher._run,
    "limits": Launcher._limits,
    "usage": Launcher._usage,
    "stop": Launcher._stop,
    "kill": Launcher._kill,
    "kill-run": Launcher._kill_run,
    "remove": Launcher._remove,
    "list": Launcher._list,
    "writable": Launcher._writable,
}


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    try:
        return messages.receive(channel, socket.MSG_DONTWAIT)
    except ConnectionError:
        return None


def _readable(channel: socket.socket) -> bool:
    return bool(select.select([channel], [], [], 0)[0])


def _error(error: BaseException) -> dict[str, Any]:
    """An exception as a message; `client` makes the same exception of it again."""
    answer: dict[str, Any] = {"event": "error", "kind": type(error).__name__, "text": str(error)}
    if isinstance(error, LimitNotEnforceable):
        answer["arguments"] = [error.option, str(error.asked), error.host, error.remedy]
    elif isinstance(error, StepFailed):
        answer["arguments"] = [error.step, error.subject, error.why, error.errno]
    return answer


def main() -> None:
    """`launcher DESCRIPTOR NAME [stays] [parent=GROUP]`, as `client` starts it."""
    descriptor, name, *words = sys.argv[1:]
    channel = socket.socket(fileno=int(descriptor))
    channel.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # A terminal's Ctrl-C is for the program; the launcher ends when the program does.
        signal.signal(number, signal.SIG_IGN)
    processes.set_name("sandbox-launch")
    parent = next((word[len("parent=") :] for word in words if word.startswith("parent=")), None)
    try:
        launcher = Launcher(channel, name, stays="stays" in words, parent=parent)
    except (SandboxError, OSError) as error:
        messages.send(channel, _error(error))
        sys.exit(1)
    # Forks share what lives for ever and never look through it for garbage: fewer pages to copy.
    gc.collect()
    gc.freeze()
    launcher.serve()
