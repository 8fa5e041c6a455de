"""`sandbox-kernel sbom`: what is installed in an image, by the databases in it."""

from __future__ import annotations

import sandbox_kernel
from sandbox_kernel import image, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import Verb

_FORMAT = Flag("format", ("--format",), "FORMAT", "How to print: SPDX 2.3 as JSON, or a table.",
    choices=("spdx", "table"), default="spdx")  # fmt: skip


def sbom(found: Parsed) -> int:
    """Prints the packages of an image. Nothing of it is run."""
    from sandbox_kernel.image.environments import sbom as materials

    plan = policy.plan(settings.COMMAND_LINE, image=found.rest[0])
    resolved = image.resolve(plan.image)
    if found.own.get("format") == "table":
        rows = [
            (each.kind, each.name, each.version, each.licence or "-", each.source)
            for each in materials.packages(resolved)
        ]
        output.table(("kind", "name", "version", "licence", "by"), rows)
        return 0
    tool = f"sandbox-kernel-{sandbox_kernel.__version__}"
    output.data(materials.document(resolved, tool=tool))
    return 0


VERBS = {
    "sbom": Verb(
        "sbom [--format spdx|table] IMAGE",
        "Print what is installed in an image, by the databases of dpkg, apk and Python in it.",
        sbom,
        (_FORMAT,),
        least=1,
        most=1,
    )
}
