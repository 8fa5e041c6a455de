"""System call filters: what the filter of a container answers, and which filter a process has.

What it says is made of the plan by the same tables as the filter itself. That one is in force is
read from /proc/PID/status (proc(5)). What is called and refused is counted by `observe.calls`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox_kernel import bundle
from sandbox_kernel.linux import seccomp
from sandbox_kernel.observe.fact import Fact, fact, read
from sandbox_kernel.policy import ContainerPlan

_MODES = {0: "none", 1: "strict", 2: "filter"}  # include/uapi/linux/seccomp.h


@dataclass(frozen=True, slots=True)
class InForce:
    """How the kernel filters the calls of one process."""

    mode: str
    """none, strict or filter."""
    filters: int | None
    """How many programs are asked, one after another; None: the kernel does not say."""
    no_new_privileges: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """What a filter answers, by names of calls. What it does not name answers `otherwise`."""

    allowed: tuple[str, ...]
    conditional: tuple[str, ...]
    """Whose arguments decide."""
    refused: tuple[tuple[str, str], ...]
    """Name, and the error that it gets."""
    otherwise: str
    source: str

    def says(self, name: str) -> str:
        """allowed, conditional, or the name of the error."""
        if name in self.allowed:
            return "allowed"
        if name in self.conditional:
            return "conditional"
        return dict(self.refused).get(name, self.otherwise)


def of_process(pid: int | str) -> Fact[InForce]:
    """The filter that is in force for a process."""
    path = f"/proc/{pid}/status"
    return fact(path, lambda: _in_force(path))


def of_plan(plan: ContainerPlan) -> Filter | None:
    """What the filter of a container with this plan answers; None: it has none."""
    profile = profile_of(plan)
    if profile is None:
        return None
    rules = profile.get("syscalls", [])
    depends = {name for rule in rules if rule.get("args") for name in rule["names"]}
    allowed, refused = set(), {}
    for rule in rules:
        for name in rule["names"]:
            if name in depends:
                continue
            if rule["action"] == "SCMP_ACT_ALLOW":
                allowed.add(name)
            else:
                refused[name] = errno.errorcode[rule.get("errnoRet", errno.EPERM)]
    return Filter(
        _sorted(allowed),
        _sorted(depends),
        tuple(sorted(refused.items())),
        errno.errorcode[profile.get("defaultErrnoRet", errno.EPERM)],
        "sandbox_kernel/bundle/seccomp_profile.py, with the capabilities of the plan",
    )


def profile_of(plan: ContainerPlan) -> seccomp.Profile | None:
    """The profile of which the filter of such a container is compiled; None: it has none."""
    return bundle.profile(plan)


def held(plan: ContainerPlan) -> tuple[str, ...]:
    """The capabilities that processes of such a container have, over its user namespace."""
    return tuple(bundle.capabilities_of(plan))


def _in_force(path: str) -> InForce:
    lines = dict(line.partition(b":")[::2] for line in read(path).splitlines())
    filters = lines.get(b"Seccomp_filters")
    return InForce(
        _MODES.get(int(lines.get(b"Seccomp", b"0")), "unknown"),
        None if filters is None else int(filters),
        lines.get(b"NoNewPrivs", b"").strip() == b"1",
    )


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))
