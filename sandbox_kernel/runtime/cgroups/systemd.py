"""cgroup v2 under systemd: a transient scope with `Delegate=yes`, asked for over D-Bus.

Runs in the program that starts a launcher, never in the launcher, which imports no package. The
scope takes the launcher's pid; below its directory the `v2` driver is at home
(`choose(parent=...)`).

Source: org.freedesktop.systemd1(5), "StartTransientUnit"; systemd's CGROUP_DELEGATION.md: who is
not systemd makes groups only where they were delegated, never at the root of the tree.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from sandbox_kernel import errors
from sandbox_kernel.runtime.cgroups import contract, mounted

if TYPE_CHECKING:
    from jeepney.low_level import Message

BUS_NAME = "org.freedesktop.systemd1"
OBJECT = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
DELEGATING = ("Scope", "Service")
"""The kinds of units that can be delegated: each an interface, and the end of a unit's path."""
BOOTED = "/run/systemd/system"
"""sd_booted(3): it is there where systemd is the init."""
SYSTEM_BUS = "/run/dbus/system_bus_socket"
DELEGATED = "user.delegate"
"""The extended attribute by which newer systemds mark what they delegated: "1"."""
SECONDS = 10.0


def is_wanted() -> bool:
    """Whether groups must be asked for here: v2 with systemd, and no subtree is ours yet.

    That a group can be written to does not make it ours: all groups of a user's manager belong to
    that user, and the one that we run in may be a terminal's, with all that runs in it.
    """
    mount = mounted.read().v2
    if mount is None or not os.path.isdir(BOOTED):
        return False
    if os.geteuid() == 0:
        return True  # the tree is systemd's
    own = mounted.own_v2(mount)
    if own is None:
        return True
    # Who runs in a delegated group has been moved to its leaf by an earlier launcher.
    above, _, name = own.rpartition("/")
    return not _is_delegated(own) and not (name == contract.LAUNCHER and _is_delegated(above))


def _is_delegated(directory: str) -> bool:
    """Whether systemd says so, or root gave this user the group, but not the one above it."""
    try:
        if os.getxattr(directory, DELEGATED) == b"1":
            return True
    except OSError:
        pass  # not marked, or a kernel older than 5.6, which keeps no such attributes there
    uid = os.geteuid()
    try:
        owners = os.stat(directory).st_uid, os.stat(os.path.dirname(directory)).st_uid
    except FileNotFoundError:
        return False
    return owners[0] == uid != owners[1]


def delegated_scope(pid: int, name: str) -> str:
    """Move the process into a new scope `sandbox-kernel-NAME.scope`; returns its directory.

    Where the unit that an ordinary user's program runs in was delegated, as by `systemd-run --user
    --scope -p Delegate=yes`, it is that one's, and nothing is moved: its limits are meant for the
    containers too. systemd removes a scope when its last process has ended. Raises HostLacks.
    """
    mount = mounted.read().v2
    if mount is None:
        raise errors.HostLacks(
            "ask systemd for a cgroup scope: cgroup v2 is not mounted here: "
            "nothing to do, the driver for v1 is used where v1 is"
        )
    unit = f"sandbox-kernel-{name}.scope"
    directory = mount.directory + _ask(unit, pid)
    if not os.access(f"{directory}/cgroup.subtree_control", os.W_OK):
        raise errors.HostLacks(
            f"use the cgroup of `{unit}`: systemd did not delegate `{directory}` to this user: "
            + contract.HAND_OVER
        )
    return directory


def start_message(unit: str, pid: int) -> Message:
    """The request for the scope: signature ssa(sv)a(sa(sv)) as the interface has it."""
    from jeepney import DBusAddress, new_method_call

    # A variant is written as (signature, value).
    properties: list[tuple[str, tuple[str, Any]]] = [
        ("Description", ("s", "Containers of sandbox-kernel")),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    address = DBusAddress(OBJECT, bus_name=BUS_NAME, interface=MANAGER)
    body: tuple[Any, ...] = (unit, "fail", properties, [])
    return new_method_call(address, "StartTransientUnit", "ssa(sv)a(sa(sv))", body)


def bus_socket() -> str:
    """The socket of the bus that the right systemd listens on. Raises HostLacks."""
    uid = os.geteuid()
    path = SYSTEM_BUS
    if uid != 0:
        path = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}", "bus")
    try:
        owner = os.stat(path).st_uid
    except OSError as error:
        mend = (
            "start the system's bus: `systemctl start dbus` (Debian's package dbus)"
            if uid == 0
            else "log in through a session of systemd (`ssh`, `machinectl shell`), "
            "or ask for a user's manager: as root run `loginctl enable-linger USER`"
        )
        raise errors.HostLacks(
            f"ask systemd for a cgroup scope on `{path}`: {error.strerror}: {mend}"
        ) from error
    if owner not in (0, uid):
        raise errors.HostLacks(
            f"ask systemd for a cgroup scope on `{path}`: the socket belongs to user {owner}: "
            "set XDG_RUNTIME_DIR to your own runtime folder"
        )
    return path


def _ask(unit: str, pid: int) -> str:
    """The path in the cgroup tree of our own unit, or of the new one, when it is there."""
    from jeepney import DBusErrorResponse
    from jeepney.auth import AuthenticationError
    from jeepney.io.blocking import open_dbus_connection

    path = bus_socket()
    try:
        with open_dbus_connection(f"unix:path={path}", auth_timeout=SECONDS) as connection:
            return _start(connection, unit, pid)
    except DBusErrorResponse as error:
        why = f"{error.name}: {' '.join(map(str, error.data))}"
    except AuthenticationError as error:
        why = f"the bus refused this user ({error})"
    except TimeoutError:
        why = f"no answer within {SECONDS:g} s"
    except OSError as error:
        why = str(error.strerror or error)
    raise errors.HostLacks(
        f"ask systemd for the cgroup scope `{unit}`: {why}: look at "
        "`systemctl status`, with `--user` as an ordinary user"
    )


def _start(connection: Any, unit: str, pid: int) -> str:
    from jeepney import (
        DBusAddress,
        DBusErrorResponse,
        MatchRule,
        Properties,
        message_bus,
        new_method_call,
    )
    from jeepney.wrappers import unwrap_msg

    deadline = time.monotonic() + SECONDS

    def call(message: Message) -> tuple[Any, ...]:
        left = max(deadline - time.monotonic(), 0.001)
        body: tuple[Any, ...] = unwrap_msg(connection.send_and_get_reply(message, timeout=left))
        return body

    def said(path: str, interface: str, name: str) -> Any:
        unit = DBusAddress(path, bus_name=BUS_NAME, interface=f"{BUS_NAME}.{interface}")
        ((_, value),) = call(Properties(unit).get(name))
        return value

    manager = DBusAddress(OBJECT, bus_name=BUS_NAME, interface=MANAGER)
    if os.geteuid() != 0:  # root's may be that of a user's manager, who does not share it
        try:
            (own,) = call(new_method_call(manager, "GetUnitByPID", "u", (os.getpid(),)))
        except DBusErrorResponse:
            own = ""  # a session's, which the user's manager does not know
        for kind in DELEGATING:
            if own.endswith(f"_2e{kind.lower()}") and said(own, kind, "Delegate"):
                return str(said(own, kind, "ControlGroup"))
    ended = MatchRule(type="signal", interface=MANAGER, member="JobRemoved", path=OBJECT)
    call(message_bus.AddMatch(ended))
    call(new_method_call(manager, "Subscribe"))
    with connection.filter(ended, bufsize=256) as signals:
        (job,) = call(start_message(unit, pid))
        while True:
            left = max(deadline - time.monotonic(), 0.001)
            _, ended_job, _, result = connection.recv_until_filtered(signals, timeout=left).body
            if ended_job == job:
                break
    if result != "done":
        raise OSError(0, f"the job ended as {result}")
    (unit_path,) = call(new_method_call(manager, "GetUnit", "s", (unit,)))
    return str(said(unit_path, "Scope", "ControlGroup"))
