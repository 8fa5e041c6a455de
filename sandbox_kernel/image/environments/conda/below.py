"""What of the image below decides which packages of conda fit: its C library and its machine.

Packages bring all but the C library and its loader. Read from the image's files; nothing is run.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import elf
from sandbox_kernel.image.environments import python as pythons
from sandbox_kernel.image.environments.tree import Tree

LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}
"""What a program of conda names as its loader."""
SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}
NO_ARCHITECTURE = "noarch"


class Base(NamedTuple):
    """Which packages of a channel can run there."""

    machine: str
    glibc: tuple[int, int]

    @property
    def subdir(self) -> str:
        """The folder of a channel that has the packages for this machine."""
        return SUBDIRS[self.machine]

    @property
    def shown(self) -> str:
        """As a message names it."""
        return f"glibc {self.glibc[0]}.{self.glibc[1]}, {self.machine}"

    @property
    def virtual_packages(self) -> list[tuple[str, str, str]]:
        """Name, version and build of what conda takes as given. CEP 30."""
        kernel = re.match(r"[0-9]+(?:\.[0-9]+)*", os.uname().release)
        return [
            ("__unix", "0", "0"),
            ("__linux", kernel[0] if kernel else "0", "0"),
            ("__glibc", f"{self.glibc[0]}.{self.glibc[1]}", "0"),
            ("__archspec", "1", self.machine),
        ]


def find(tree: Tree, reference: str) -> Base:
    """What an image gives. Raises ImageError when programs of conda can't run in it."""
    doing = f"put an environment of conda over `{shown(reference)}`"
    for machine, loader in LOADERS.items():
        try:
            descriptor = tree.open(loader)
        except OSError:
            continue  # not there: it is another machine's, or another library's
        with open(descriptor, "rb") as file:
            try:
                found = elf.read(file.fileno())
            except ValueError as error:
                raise ImageError(f"{doing}: its loader `{loader}`: {error}: use an image that is "
                                 "whole") from error  # fmt: skip
        if found.machine != machine:
            continue
        libc, version = pythons.libc(tree, elf.Program(machine, loader), doing)
        assert libc == "glibc"
        return Base(machine, version)
    musl = any(tree.exists(f"/lib/ld-musl-{machine}.so.1") for machine in LOADERS)
    has = "it has musl" if musl else f"it has none of `{'`, `'.join(LOADERS.values())}`"
    raise ImageError(
        f"{doing}: packages of conda need glibc, and {has}: choose a base with glibc, as in "
        "`conda:FILE on debian:12-slim`"
    )
