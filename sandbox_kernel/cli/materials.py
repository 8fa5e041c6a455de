"""`sandbox-kernel sbom`: what is installed in an image, by the databases in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import sandbox_kernel
from sandbox_kernel import image, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import Verb

if TYPE_CHECKING:
    from sandbox_kernel.image.image import Image

_FORMAT = Flag("format", ("--format",), "FORMAT", "How to print: SPDX 2.3 as JSON, or a table.",
    choices=("spdx", "table"), default="spdx")  # fmt: skip


def sbom(found: Parsed) -> int:
    """Prints the packages of an image. Nothing of it is run."""
    plan = policy.plan(settings.COMMAND_LINE, image=found.rest[0])
    resolved = image.resolve(plan.image)
    for note in notes(resolved):
        print(f"sandbox-kernel: note: {note}", file=sys.stderr)
    if found.own.get("format") == "table":
        output.table(HEADINGS, rows(resolved))
        return 0
    from sandbox_kernel.image.environments import sbom as materials

    tool = f"sandbox-kernel-{sandbox_kernel.__version__}"
    output.data(materials.document(resolved, tool=tool))
    return 0


HEADINGS = ("kind", "name", "version", "licence", "by")


def rows(resolved: Image) -> list[tuple[str, ...]]:
    """One row for each package. Raises ImageError."""
    from sandbox_kernel.image.environments import sbom as materials

    return [
        (each.kind, each.name, each.version, each.licence or "-", each.source)
        for each in materials.packages(resolved)
    ]


def notes(resolved: Image) -> list[str]:
    """What the list lacks, a line each."""
    from sandbox_kernel.image.environments import sbom as materials

    return [output.clean(line) for line in materials.missing(resolved)]


VERBS = {
    "sbom": Verb(
        "sbom [--format spdx|table] IMAGE",
        "Print what is installed in an image, by the databases of dpkg, apk, conda and Python in "
        "it. That of rpm is not read, and it is said where there is one.",
        sbom,
        (_FORMAT,),
        least=1,
        most=1,
    )
}
