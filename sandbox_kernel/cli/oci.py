"""`sandbox-kernel runtime`: the command line of an OCI runtime, which has words of its own."""

from __future__ import annotations

from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli.verb import Verb
from sandbox_kernel.oci import main

_FLAGS = (
    Flag("root", ("--root",), "DIR", "Where containers are kept between two calls."),
    Flag("log", ("--log",), "FILE", "Also write what goes wrong here."),
    Flag("log_format", ("--log-format",), "FORMAT", "How.", choices=("text", "json"),
         default="text"),
)  # fmt: skip


def runtime(found: Parsed) -> int:
    """As `sandbox-kernel-runtime`."""
    given = [
        word
        for flag in _FLAGS
        if flag.name in found.own
        for word in (flag.spellings[0], str(found.own[flag.name]))
    ]
    return main.main([*given, *found.rest])


VERBS = {
    "runtime": Verb(
        "runtime [options] create|start|run|state|kill|delete|exec|list|ps|update|pause|resume"
        "|events|features|spec ...",
        "Be an OCI runtime for podman, buildah and others; see docs/oci.md. The exit status is the "
        "program's, or 1.",
        runtime,
        _FLAGS,
        command=True,
        least=1,
    )
}
