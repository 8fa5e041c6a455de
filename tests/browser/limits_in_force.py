"""Limits as a person drags them, and as the kernel's files have them. No test in here."""

from __future__ import annotations

from playwright.sync_api import Locator

from sandbox_kernel.container import Container
from sandbox_kernel.observe.groups import Group

SECONDS = 30.0


def limit(held: Container, name: str) -> float | None:
    """The number in the kernel's file."""
    with Group(held.cgroup_paths()) as group:
        return group.limits()[name].value


def drag(line: Locator, down: float) -> None:
    """Take the line and let it go so many pixels further down."""
    box = line.bounding_box()
    assert box is not None
    mouse = line.page.mouse
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(x, y)
    mouse.down()
    mouse.move(x, y + down / 2)
    mouse.move(x, y + down)
    mouse.up()
