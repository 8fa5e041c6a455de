"""What root types to hand a subtree to a user: printed by `sandbox-kernel doctor`, run by nobody.

The limits of the subtree as a whole stay root's: only the directory and the files that move
processes and hand on controllers change their owner.
"""

from __future__ import annotations

import os
import pwd
import shlex

from sandbox_kernel.runtime.cgroups import contract, mounted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox_kernel.runtime.cgroups.mounted import Mounts

# cgroups(7), "Cgroups v2 delegation"; on v1 the same without subtree_control.
FILES_V1 = ("cgroup.procs", "tasks")
FILES_V2 = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")
CONTROLLERS_V2 = ("cpu", "cpuset", "io", "memory", "pids")


def commands(user: str, mounts: Mounts | None = None, *, systemd: bool | None = None) -> list[str]:
    """Shell commands for root, in order. Raises KeyError when there is no such user.

    With systemd on v2 the user's manager hands on what it has, and the setting outlives a restart
    of the machine; elsewhere the commands are typed again after each start.
    """
    uid = pwd.getpwnam(user).pw_uid
    if mounts is None:
        mounts = mounted.read()
    if systemd is None:
        systemd = os.path.isdir("/run/systemd/system")
    if mounts.v1:
        directories = dict.fromkeys(mount.directory for mount in mounts.v1.values())
        cpuset = mounts.v1["cpuset"].directory if "cpuset" in mounts.v1 else None
        return [line for each in directories for line in _v1(each, user, uid, each == cpuset)]
    if mounts.v2 is None:
        return []
    return _systemd(user, uid) if systemd else _v2(mounts.v2.directory, user, uid)


def _v1(directory: str, user: str, uid: int, cpuset: bool) -> list[str]:
    top = f"{directory}/{contract.TOP}"
    mine = f"{top}/user-{uid}"
    lines = [f"mkdir -p {shlex.quote(mine)}"]
    if cpuset:  # a new cpuset is empty, and an empty one takes no process
        lines += [
            f'[ -n "$(cat {shlex.quote(there)}/{name})" ] || '
            f"cat {shlex.quote(above)}/{name} > {shlex.quote(there)}/{name}"
            for above, there in ((directory, top), (top, mine))
            for name in ("cpuset.mems", "cpuset.cpus")
        ]
    return [*lines, _chown(user, mine, FILES_V1)]


def _v2(directory: str, user: str, uid: int) -> list[str]:
    mine = f"{directory}/{contract.TOP}/user-{uid}"
    return [
        f"mkdir -p {shlex.quote(mine)}",
        *(
            f"for c in {' '.join(CONTROLLERS_V2)}; "
            f"do echo +$c > {shlex.quote(there)}/cgroup.subtree_control; done 2>/dev/null || true"
            for there in (directory, f"{directory}/{contract.TOP}")
        ),
        _chown(user, mine, FILES_V2),
        # Moving a process needs the right to the group above both places, so root puts it there.
        f"echo PID > {shlex.quote(mine)}/cgroup.procs  # PID: the user's shell or Jupyter",
    ]


def _systemd(user: str, uid: int) -> list[str]:
    drop_in = "/etc/systemd/system/user@.service.d"
    return [
        f"mkdir -p {drop_in}",
        f"printf '[Service]\\nDelegate={' '.join(CONTROLLERS_V2)}\\n' > {drop_in}/delegate.conf",
        "systemctl daemon-reload",
        f"loginctl enable-linger {shlex.quote(user)}",
        f"systemctl restart user@{uid}.service  # ends what that user runs now",
    ]


def _chown(user: str, directory: str, names: tuple[str, ...]) -> str:
    paths = [directory, *(f"{directory}/{name}" for name in names)]
    return f"chown {shlex.quote(user)} {' '.join(map(shlex.quote, paths))}"
