"""What will be, or is, in force for a container: each value, where it came from, what holds it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox_kernel import errors, policy, settings
from sandbox_kernel.container import Container
from sandbox_kernel.observe.source import Source
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.runtime import cgroups

INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """One option of a plan."""

    option: str
    group: str
    """What it is about: limits, network, files, ..."""
    value: str
    """As a person reads it; `-`: not set."""
    source: str
    """Who said so: the built-in default, a file of settings, a notebook, a magic, ..."""
    asked: bool
    """Whether somebody asked for it, so that nothing starts where it can't be held."""
    in_force: str
    """Of a container that lives: `yes`, `no`, or what the kernel says instead. Else ""."""
    read_back: bool
    """Whether the kernel itself was asked."""
    lacking: str
    """Why this machine can't hold it."""
    help: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and of whom."""

    taken: float
    lines: tuple[Line, ...]
    lives: bool
    """Whether a container has it; else it is what a cell of this folder would get."""


def of_plan(plan: ContainerPlan, in_force: Mapping[str, Any] | None = None) -> Planned:
    """A plan as facts. `in_force`: what the kernel reads back (`Container.limits`)."""
    support = cgroups.choose().support()
    lines = []
    for row in plan.describe(in_force):
        option = settings.OPTIONS[row.option]
        lines.append(
            Line(
                option=row.option,
                group=option.group,
                value=row.value,
                source=row.source,
                asked=row.option in plan.asked,
                in_force=row.in_force,
                read_back=in_force is not None and row.option in in_force,
                lacking=support.get(row.option, "") if row.value != "-" else "",
                help=str(option.help),
            )
        )
    return Planned(time.time(), tuple(lines), in_force is not None)


class PlanOf(Source):
    """The plan of a container, until it ends; or the one that a cell of this folder would get."""

    def __init__(self, container: Container | None) -> None:
        name, pid = ("", None) if container is None else (container.name, container.pid)
        super().__init__(name, pid, INTERVAL)
        self._container = container

    def facts(self) -> Planned | None:
        if self._container is None:
            return of_plan(policy.plan(settings.MAGIC))
        try:
            return of_plan(self._container.plan, self._container.limits())
        except (errors.NoSuchContainer, errors.LauncherGone):
            return None
