"""A container's life: create, run, look at and change its limits, stop, remove."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sandbox_kernel import bundle, errors, image, learnt, policy, settings
from sandbox_kernel.bundle import Bundle
from sandbox_kernel.container import networking, program, warm
from sandbox_kernel.container.process import Process, ProcessSpec, Usage
from sandbox_kernel.image import Image
from sandbox_kernel.linux import landlock
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.runtime import client, walls
from sandbox_kernel.runtime.client import Channel, Holder, Launcher

CREATE_SECONDS = 60.0


class Container:
    """A held container: namespaces, a cgroup and a root file system, with our init as pid 1."""

    def __init__(
        self,
        *,
        container_id: str,
        name: str | None,
        plan: ContainerPlan,
        resolved: Image,
        pid: int,
        limits: Mapping[str, Any],
        groups: Mapping[str, str],
        connect: Callable[[], Channel],
        base: Mapping[str, Any],
        owner: Channel | None = None,
        not_in_force: tuple[str, ...] = (),
        was_ready: bool = False,
        connected: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = container_id
        self.name = name or container_id
        self.plan = plan
        self.image = resolved
        self.pid = pid
        self.limits_at_start = dict(limits)
        self.not_in_force = not_in_force
        self.process: Process | None = None
        self.was_ready = was_ready
        """Whether it was there, with a forked interpreter in it, before it was asked for."""
        self.connected = None if connected is None else dict(connected)
        """In a network: `network`, `address`, `mac`, `interface`, `published`."""
        self._groups = dict(groups)
        self._connect = connect
        self._base = base
        self._owner = owner
        self._control: Channel | None = None
        self._lock = threading.Lock()
        self._removed = False

    @classmethod
    def create(
        cls,
        plan: ContainerPlan,
        *,
        process: ProcessSpec | None = None,
        launcher: Launcher | Holder | None = None,
        detached: bool = False,
        resolved: Image | None = None,
    ) -> Container:
        """Make a container, with its first process or held empty.

        `resolved` is the image where the caller has it already, which `plan.image` then only names.

        One with a process lives as long as that process; one without lives until `remove`, or
        until this program ends. A `detached` one has a launcher of its own and outlives this
        program; when its process ended it is still listed, with its log, until `remove`.

        Raises LimitNotEnforceable, StepFailed, ImageError, HostLacks, LauncherGone.
        """
        if resolved is None:
            resolved = image.resolve(plan.image)  # before anything is started for it
        plan = _fitted(plan, resolved)
        if detached:
            own = Launcher(detached=True)
            try:
                container = cls._make(plan, resolved, process, own, detached=True)
            except BaseException:
                own.close()
                raise
            folder = own.about["folder"]
            container._connect = functools.partial(client.open_control, folder)
            own.let_go()
            return container
        return cls._make(plan, resolved, process, launcher or client.shared(), detached=False)

    @classmethod
    def _make(
        cls,
        plan: ContainerPlan,
        resolved: Image,
        process: ProcessSpec | None,
        launcher: Launcher | Holder,
        *,
        detached: bool,
    ) -> Container:
        if isinstance(launcher, Holder) and not networking.is_here(plan, launcher.about):
            launcher = client.shared()
        order = _Order(plan, resolved, process, launcher, detached=detached)
        with contextlib.ExitStack() as needed:
            joined = needed.enter_context(networking.shared(plan))
            descriptors = (*(process.descriptors.values() if process else ()), *joined)
            channel = launcher.connect()
            try:
                channel.ask("create", order.message, descriptors)
                answer, received = channel.hear(CREATE_SECONDS)
                while answer["event"] != "created":
                    if answer["event"] == "network-wanted":
                        needed.enter_context(networking.holder(plan))
                    # It may know neither how such a container is made nor the networks.
                    channel.ask("create", order.whole(), (*descriptors, *order.programs))
                    answer, received = channel.hear(CREATE_SECONDS)
            except errors.StepFailed as error:
                channel.close()
                raise _by_option(error, plan) from None
            except BaseException:
                channel.close()
                raise
        container_id = answer["id"]  # its own, when it was there before it was asked for
        container = cls(
            container_id=container_id,
            name=plan.name,
            plan=plan,
            resolved=resolved,
            pid=answer["pid"],
            limits=answer["limits"],
            groups=answer["groups"],
            connect=launcher.connect,
            base=order.made["config"]["process"],
            owner=channel,
            not_in_force=(*order.not_in_force, *resolved.notices),
            was_ready=answer["was_ready"],
            connected=answer["connected"],
        )
        if process:
            # That it was started came with the same message, unless it was not.
            pidfd = received.pop() if received else -1
            container.process = Process(channel, container_id, launcher.connect, pidfd)
        return container

    @staticmethod
    def prepare(
        plan: ContainerPlan, process: ProcessSpec, launcher: Launcher | Holder, resolved: Image
    ) -> None:
        """Work out the order of such a container, which is kept. Raises as `create`."""
        _Order(_fitted(plan, resolved), resolved, process, launcher, detached=False)

    @staticmethod
    def expect(
        plan: ContainerPlan,
        process: ProcessSpec,
        launcher: Launcher | Holder,
        resolved: Image | None = None,
    ) -> None:
        """Have a container ready for a process like this one, soon. Raises as `create`."""
        resolved = resolved or image.resolve(plan.image)
        order = _Order(_fitted(plan, resolved), resolved, process, launcher, detached=False)
        if not order.programs:
            return
        channel = launcher.connect()
        try:
            channel.ask("pool", {"do": "warm", "order": order.whole()}, order.programs)
            for descriptor in channel.hear(CREATE_SECONDS)[1]:
                os.close(descriptor)
        finally:
            channel.close()

    def run(self, process: ProcessSpec, *, outlives: bool = False) -> Process:
        """Start one more process in the container, in a cgroup of its own below the container's.

        It is ended with this program, unless it `outlives` it. Raises NoSuchContainer,
        LauncherGone.
        """
        channel = self._connect()
        try:
            channel.ask(
                "run",
                {"container": self.id, "outlives": outlives, **_launch(self._base, process)},
                tuple(process.descriptors.values()),
            )
        except BaseException:
            channel.close()
            raise
        return Process(channel, self.id, self._connect)

    def connect(self) -> Channel:
        """A channel of the caller's to its launcher. Raises LauncherGone."""
        return self._connect()

    def limits(self) -> dict[str, Any]:
        """The limits in force, read back from the kernel now; keys as the plan's fields."""
        limits: dict[str, Any] = self._request("limits", {})["limits"]
        return limits

    def set_limits(self, source: str = settings.MAGIC, /, **changes: Any) -> dict[str, Any]:
        """Change limits of the live container; returns what the kernel reads back.

        Values as the options have them (`memory="512m"`). Raises InvalidOption, NotAllowed,
        LimitNotEnforceable, NoSuchContainer.
        """
        wished, only_changes = policy.change(self.plan, source, **changes)
        order = {"resources": bundle.resources(only_changes), "plan": policy.record(wished)}
        limits: dict[str, Any] = self._request("limits", order)["limits"]
        self.plan = wished
        return limits

    def usage(self) -> Usage:
        """What it used so far (see `Exit.usage`)."""
        usage: Usage = self._request("usage", {})["usage"]
        return usage

    def cgroup_paths(self) -> dict[str, str]:
        """Controller to the directory of its group; {"": path} on cgroup v2."""
        return dict(self._groups)

    def stop(self, timeout: float | None = None) -> None:
        """SIGTERM to its processes; after `timeout` (default: the plan's) all are ended."""
        seconds = self.plan.stop_timeout if timeout is None else timeout
        self._request("stop", {"timeout": seconds})

    def wait(self) -> None:
        """Until it is over. At once when it is over already."""
        channel = self._connect()
        try:
            channel.ask("wait", {"container": self.id})
            channel.hear()
        except errors.LauncherGone:
            pass  # its launcher ended with it
        finally:
            channel.close()

    def logs(self, *, follow: bool = False) -> Iterator[tuple[int, bytes]]:
        """What its logged processes wrote: 1 or 2 for the stream, and the bytes.

        The launcher keeps the last MiB. What is lost of it is said as (0, a line about it). With
        `follow` it goes on until the container is over.
        """
        after = 0
        while True:
            channel = self._connect()
            try:
                channel.ask("logs", {"container": self.id, "after": after, "wait": follow})
                answer, _ = channel.hear()
            finally:
                channel.close()
            if answer["missed"]:
                yield 0, f"({answer['missed']} bytes that came before are not kept)\n".encode()
            for stream, text in answer["chunks"]:
                yield stream, base64.b64decode(text)
            after = answer["next"]
            if answer["over"] or not follow:
                return

    def kill(self, reason: str = "killed") -> None:
        """End all its processes now. Nothing happens when it is over already."""
        try:
            self._request("kill", {"reason": reason})
        except errors.NoSuchContainer:
            return

    def remove(self) -> None:
        """End it and wait until nothing of it is left. May be called twice."""
        with self._lock:
            if self._removed:
                return
            self._removed = True
        try:
            self._request("remove", {})
        except (errors.NoSuchContainer, errors.LauncherGone):
            pass  # it is gone already, which is what was asked for
        finally:
            self.close()

    def close(self) -> None:
        """Let the channels go; a container that is ours and not kept ends then."""
        if self.process:
            self.process.close()
        for channel in (self._owner, self._control):
            if channel:
                channel.close()

    def open_writable(self) -> tuple[int, bool]:
        """A descriptor of the writable layer, the caller's, and whether it lies over layers."""
        channel = self._connect()
        try:
            channel.ask("writable", {"container": self.id})
            answer, descriptors = channel.hear(client.ANSWER_SECONDS)
        finally:
            channel.close()
        return descriptors[0], answer["layered"]

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _request(self, operation: str, message: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._control is None:
                self._control = self._connect()
            return self._control.request(operation, {"container": self.id, **message})


class _Order:
    """What a launcher is told to make a container."""

    def __init__(
        self,
        plan: ContainerPlan,
        resolved: Image,
        process: ProcessSpec | None,
        launcher: Launcher | Holder,
        *,
        detached: bool,
    ) -> None:
        support = tuple(sorted(launcher.about["support"].items()))
        enforceable = functools.partial(_enforceable, support=support)
        effective, self.not_in_force = enforceable(plan)
        self.made = _order(effective, resolved)
        container_id = secrets.token_hex(6)
        self.message: dict[str, Any] = {
            "recipe": self.made["recipe"],
            "kind": self.made["kind"],
            "id": container_id,
            "name": plan.name,
            "joins": networking.shares(plan) is not None,
            "outlives": plan.keep or detached,
            "record": detached and process is not None,
            "hostname": plan.hostname or container_id,
            "about": {
                "image": plan.image,
                "digest": resolved.digest,
                "layers": list(resolved.layers),
                "command": list(process.argv) if process else [],
                "program": os.path.basename(sys.argv[0] or "python"),
                "owner": os.getpid(),
                "not_in_force": [*self.not_in_force, *resolved.notices],
            },
        }
        self._wish = None
        if process:
            self.message.update(_launch(self.made["config"]["process"], process), single=True)
            kept = isinstance(launcher, Holder)
            if not detached:
                self._wish = warm.wish(
                    effective, resolved, process, enforceable=enforceable, kept=kept
                )
        if self._wish:
            self.message["warm"] = self._wish.order()

    def whole(self) -> dict[str, Any]:
        """The message with what the launcher may not know yet."""
        template = {"template": self._wish.recipe} if self._wish else {}
        return {**self.made, **template, **self.message}

    @property
    def programs(self) -> tuple[int, ...]:
        """What goes with the whole message: the program of a template."""
        return (self._wish.program(),) if self._wish else ()


def _fitted(plan: ContainerPlan, resolved: Image) -> ContainerPlan:
    """With `strict` the filter learnt for the image, if there is one. Raises StepFailed."""
    if not plan.strict or plan.seccomp:
        return plan
    return policy.with_learnt(plan, learnt.of_image(resolved.digest), "learnt for the image")


def _enforceable(
    plan: ContainerPlan, support: tuple[tuple[str, str], ...]
) -> tuple[ContainerPlan, tuple[str, ...]]:
    """The plan without the built-in defaults that this host can't enforce, and a line for each.

    Raises LimitNotEnforceable for a limit that somebody asked for.
    """
    dropped: dict[str, Any] = {}
    lines = []
    for name, reason in support:
        value = getattr(plan, name, None)
        if not reason or value in (None, ()):
            continue
        if name in plan.asked:
            host, _, remedy = reason.partition(": ")
            raise errors.LimitNotEnforceable(
                "--" + name.replace("_", "-"), value, host, remedy or "see `sandbox-kernel doctor`"
            )
        dropped[name] = None
        lines.append(f"--{name.replace('_', '-')} is not in force: {reason}")
    return (plan.replaced(**dropped) if dropped else plan), tuple(lines)


_MOUNT_NEEDS = {
    errno.ELOOP: "a target with no symbolic link on its way: name the folder that it leads to",
    errno.ENOTDIR: "a target below folders, and a folder on a folder or a file on a file",
    errno.EINVAL: "a folder on a folder, or a file on a file, and never a symbolic link",
    errno.EROFS: "a target that is there already, since what it lies in is read-only",
}


def _by_option(error: errors.StepFailed, plan: ContainerPlan) -> errors.SandboxError:
    """The failed step as an error of the option that named its object, if one did."""
    if error.step == "mount" and any(mount.target == error.subject for mount in plan.mount):
        allowed = _MOUNT_NEEDS.get(error.errno)
        if allowed:
            return errors.InvalidOption("--mount", error.subject, allowed)
    if error.step == "map ids of" and any(mount.source == error.subject for mount in plan.mount):
        return errors.InvalidOption("--mount", error.subject, error.why)
    return error


@functools.lru_cache(maxsize=64)
def _order(plan: ContainerPlan, resolved: Image) -> dict[str, Any]:
    """The part of a launch order that depends on plan and image alone, with its digest.

    A launcher keeps it under the digest, so that it travels once (see `runtime.containers`).
    """
    if any(
        mount.target.startswith(tree["destination"] + "/")
        for mount in plan.mount
        for tree in resolved.trees
    ):
        resolved = resolved.expanded()
    made: Bundle = bundle.make(plan, resolved)
    program = made.seccomp_program()
    config: dict[str, Any] = {**made.config, "linux": {**made.config["linux"]}}
    # The launcher takes the compiled program; the rules are three quarters of the configuration.
    profile = config["linux"].pop("seccomp", None)
    if plan.strict:
        domain = landlock.domain(landlock.need(), tcp=plan.network != "none")
        config["process"] = {**config["process"], "landlock": domain}
    recipe: dict[str, Any] = {
        "config": config,
        "wall": _wall(plan, resolved, config, profile),
        "plan": policy.record(plan),
        "layers": list(made.layers),
        "leases": list(resolved.leases),
        "entries": list(resolved.entries),
        "trees": list(resolved.trees),
        "storage_size": made.storage_size,
        "seccomp_program": None if program is None else base64.b64encode(program).decode(),
        "files": bundle.files(plan),
        "network": networking.order(plan),
    }
    # What is ready for other limits of the same kind can be given these (see `runtime.pool`).
    linux = {name: value for name, value in config["linux"].items() if name != "resources"}
    kind = {**recipe, "config": {**config, "linux": linux}, "plan": None}
    return {**recipe, "recipe": _digest(recipe), "kind": _digest(kind)}


INSIDE = {"runsc": ("carrier",), "vm": ("carrier", "machine")}
"""Modules of ours that a runtime with a kernel of its own has inside."""


def _wall(
    plan: ContainerPlan,
    resolved: Image,
    config: dict[str, Any],
    profile: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """The runtime of others that makes it, if one does; it gets the rules as they are written.

    Raises HostLacks.
    """
    if plan.runtime == "embedded":
        return None
    walls.refuse(plan, resolved.interpreter)
    # Of runtime-spec 1.1, which not every runtime has; nothing of the plan is in it.
    linux = config["linux"]
    linux["namespaces"] = [kind for kind in linux["namespaces"] if kind["type"] != "time"]
    return {
        "name": plan.runtime,
        "program": walls.find(plan.runtime),
        "seccomp": profile,
        "namespaces": plan.runtime not in walls.OWN_KERNEL,
        "carrier": "\n\n".join(map(program.source, INSIDE.get(plan.runtime, ()))),
        "interpreter": resolved.interpreter,
    }


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _launch(base: Mapping[str, Any], process: ProcessSpec) -> dict[str, Any]:
    """A run as the launcher takes it: the plan's process with the caller's words in it."""
    merged = dict(base)
    merged["args"] = list(process.argv)
    if process.env:
        environment = dict(entry.partition("=")[::2] for entry in base.get("env", ()))
        environment.update(process.env)
        merged["env"] = [f"{key}={value}" for key, value in environment.items()]
    if process.cwd:
        merged["cwd"] = process.cwd
    if process.user:
        merged["user"] = {"username": process.user}
    if process.transfer:
        merged["transfer"] = dict(process.transfer)
    if process.recorder is not None:
        merged["recorder"] = process.recorder
    if process.root_only:
        merged["rootOnly"] = True
    return {
        "process": merged,
        "numbers": list(process.descriptors),
        "timeout": process.timeout,
        "logged": process.logged,
    }
