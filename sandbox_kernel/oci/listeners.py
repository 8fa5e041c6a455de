"""Rules for system calls that are asked of somebody outside: `linux.seccomp.listenerPath`.

config-linux.md of the specification, "Seccomp" and "The Container Process State"; seccomp(2).
"""

from __future__ import annotations

import _socket as socket  # all that is needed here of `socket`, which is slow to import
import struct

from sandbox_kernel import plain_json
from sandbox_kernel.linux import seccomp_install as names
from sandbox_kernel.oci.document import VERSION
from sandbox_kernel.oci.faults import doing, wrong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": names.SECCOMP_FILTER_FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": names.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": names.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": names.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}
NOTIFY = "SCMP_ACT_NOTIFY"
HELD_BACK = "sendmsg"
"""By this call the process gives its listener away: asked of it, nobody would ever hear."""


def flags(profile: Mapping[str, Any]) -> int:
    """With what flags the filter is to be installed. Raises InvalidOption."""
    wanted = 0
    for name in profile.get("flags") or ():
        if name not in FLAGS:
            raise wrong("linux.seccomp.flags", name, f"one of {', '.join(FLAGS)}")
        wanted |= FLAGS[name]
    rules = [rule for rule in profile.get("syscalls") or () if rule.get("action") == NOTIFY]
    path = profile.get("listenerPath")
    if profile.get("defaultAction") == NOTIFY:
        raise wrong("linux.seccomp.defaultAction", NOTIFY, "another: our own calls would wait too")
    if any(HELD_BACK in rule["names"] for rule in rules):
        allowed = f"not for {HELD_BACK}, by which the listener is handed over"
        raise wrong("linux.seccomp.syscalls.action", NOTIFY, allowed)
    if rules and not (isinstance(path, str) and path.startswith("/")):
        raise wrong("linux.seccomp.listenerPath", path, f"an absolute path, as {NOTIFY} is used")
    if profile.get("listenerMetadata") and not path:
        raise wrong("linux.seccomp.listenerMetadata", "given", "nothing without listenerPath")
    if not rules:
        if wanted & names.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV:
            only = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
            raise wrong("linux.seccomp.flags", only, f"it only with {NOTIFY}")
        return wanted
    if wanted & names.SECCOMP_FILTER_FLAG_TSYNC:  # else the result could be a thread or a listener
        wanted |= names.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    return wanted | names.SECCOMP_FILTER_FLAG_NEW_LISTENER


def hand_over(
    profile: Mapping[str, Any], state: Mapping[str, Any], pid: int, listener: int
) -> None:
    """Send the listener of a process to who answers. Raises StepFailed."""
    told: dict[str, Any] = {"ociVersion": VERSION, "fds": ["seccompFd"], "pid": pid}
    if metadata := profile.get("listenerMetadata"):
        told["metadata"] = metadata
    body = plain_json.written({**told, "state": dict(state)}).encode()
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with doing("send the listener of system calls to", profile["listenerPath"]):
            channel.connect(profile["listenerPath"])
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", listener))
            sent = channel.sendmsg([body], [rights], socket.MSG_NOSIGNAL)
            channel.sendall(body[sent:])
    finally:
        channel.close()
