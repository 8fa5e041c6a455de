"""cgroup v2 under systemd: a transient scope with `Delegate=yes`, asked for over D-Bus.

Runs in the program that starts a launcher, never in the launcher: it needs `jeepney`. The scope
takes the launcher's pid; below its directory the `v2` driver is at home (`choose(parent=...)`).

Source: org.freedesktop.systemd1(5), "StartTransientUnit"; systemd's CGROUP_DELEGATION.md: who is
not systemd makes groups only where they were delegated, never at the root of the tree.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from sandbox_kernel import errors
from sandbox_kernel.runtime.cgroups import mounted

if TYPE_CHECKING:
    from jeepney.low_level import Message

BUS_NAME = "org.freedesktop.systemd1"
OBJECT = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
SCOPE = "org.freedesktop.systemd1.Scope"
SYSTEM_BUS = "/run/dbus/system_bus_socket"
SECONDS = 10.0


def is_wanted() -> bool:
    """Whether groups must be asked for here: v2 with systemd, and no subtree is ours yet."""
    mount = mounted.read().v2
    if mount is None or not os.path.isdir("/run/systemd/system"):
        return False
    own = mounted.own_v2(mount)
    delegated = own is not None and os.access(f"{own}/cgroup.subtree_control", os.W_OK)
    return os.geteuid() == 0 or not delegated


def delegated_scope(pid: int, name: str) -> str:
    """Move the process into a new scope `sandbox-kernel-NAME.scope`; returns its directory.

    systemd removes the scope when its last process has ended. Raises HostLacks.
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
            "as root run what `sandbox-kernel doctor` prints for handing over a subtree"
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
        raise errors.HostLacks(
            f"ask systemd for a cgroup scope on `{path}`: {error.strerror}: log in through a "
            "session of systemd (`machinectl shell`, `ssh`), or use cgroups that root handed over"
        ) from error
    if owner not in (0, uid):
        raise errors.HostLacks(
            f"ask systemd for a cgroup scope on `{path}`: the socket belongs to user {owner}: "
            "set XDG_RUNTIME_DIR to your own runtime folder"
        )
    return path


def _ask(unit: str, pid: int) -> str:
    """Start the scope, wait until it is there, and return its path in the cgroup tree."""
    path = bus_socket()
    try:
        from jeepney import DBusErrorResponse
        from jeepney.auth import AuthenticationError
        from jeepney.io.blocking import open_dbus_connection
    except ImportError as error:
        raise errors.HostLacks(
            "ask systemd for a cgroup scope: the package jeepney is missing: "
            "`pip install 'sandbox-kernel[systemd]'`"
        ) from error
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
    from jeepney import DBusAddress, MatchRule, Properties, message_bus, new_method_call
    from jeepney.wrappers import unwrap_msg

    deadline = time.monotonic() + SECONDS

    def call(message: Message) -> tuple[Any, ...]:
        left = max(deadline - time.monotonic(), 0.001)
        body: tuple[Any, ...] = unwrap_msg(connection.send_and_get_reply(message, timeout=left))
        return body

    ended = MatchRule(type="signal", interface=MANAGER, member="JobRemoved", path=OBJECT)
    call(message_bus.AddMatch(ended))
    manager = DBusAddress(OBJECT, bus_name=BUS_NAME, interface=MANAGER)
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
    scope = DBusAddress(unit_path, bus_name=BUS_NAME, interface=SCOPE)
    (control_group,) = call(Properties(scope).get("ControlGroup"))
    return str(control_group[1])
