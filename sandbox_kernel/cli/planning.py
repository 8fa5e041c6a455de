"""`sandbox-kernel plan`: what would be in force, where each value comes from, nothing started."""

from __future__ import annotations

from sandbox_kernel import image, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.errors import InvalidOption

_AS = Flag("as", ("--as",), "SOURCE", "As if they came from there.",
    choices=("command line", "magic", "notebook", "kernelspec"), default="command line")  # fmt: skip  # noqa: E501
_ALL = Flag("all", ("--all", "-a"), "", "Also what is not set.")


def plan(found: Parsed) -> int:
    """Prints the plan of the options and the image that were given."""
    options = dict(found.options)
    if found.rest:
        if "image" in options:
            raise InvalidOption("--image", options["image"], f"one image: `{found.rest[0]}` is one")
        options["image"] = found.rest[0]
    made = policy.plan(found.own.get("as", settings.COMMAND_LINE), **options)
    image.check(made.image)  # there is no plan for what is not there; but nothing is got for one
    if found.own.get("format") == "json":
        values = {
            name: {"value": value, "source": made.sources[name], "asked": name in made.asked}
            for name, value in made.options().items()
        }
        output.data(values)
        return 0
    lacking = _not_enforceable()
    rows = []
    for row in made.describe():
        if row.value == "-" and not found.own.get("all"):
            continue
        state = ("no: " + lacking[row.option]) if lacking.get(row.option) else "yes"
        rows.append((row.option, row.value, row.source, state if row.value != "-" else ""))
    output.table(("option", "value", "from", "can be enforced"), rows)
    return 0


def _not_enforceable() -> dict[str, str]:
    """Limit -> why this machine can't hold it; found out by the control group drivers."""
    from sandbox_kernel.runtime import cgroups

    return {name: why for name, why in cgroups.choose().support().items() if why}


VERBS = {
    "plan": Verb(
        "plan [options] [IMAGE]",
        "Print each value that would be in force for a container, with its source. Nothing starts.",
        plan,
        (FORMAT, _AS, _ALL),
        options=None,
        most=1,
    )
}
