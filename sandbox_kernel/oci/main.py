"""Where the command line of the OCI runtime starts: global options, the verb, one line of error.

`sandbox-kernel runtime ...`, and `sandbox-kernel-runtime ...` for programs that take the path of
a runtime. What a verb needs is imported by it: the time of a start counts.
"""

from __future__ import annotations

import os
import sys

from sandbox_kernel.errors import InvalidOption, SandboxError
from sandbox_kernel.oci import state, words
from sandbox_kernel.oci.faults import said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "sandbox-kernel-runtime"
GLOBAL = words.table(
    ("root", "log", "log-format", "debug!", "systemd-cgroup!", "rootless", "criu", "help!",
     "entry!", "version!"),
    h="help", v="version",
)  # fmt: skip
MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
"""What a config.json does that has something else where the specification has an object."""
VERBS = {
    "create": "make a container, whose program waits to be started",
    "start": "start the program of a container",
    "run": "make a container, start it, and wait for its end",
    "state": "print the state of a container",
    "kill": "send a signal to a container",
    "delete": "remove a container that ended",
    "exec": "run one more program in a container",
    "list": "list containers",
    "ps": "list the processes of a container",
    "update": "change the limits of a container",
    "pause": "stop all processes of a container for a while",
    "resume": "let them go on",
    "events": "print what a container uses",
    "features": "print what this runtime can do",
    "spec": "write a config.json to begin with",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: of `run` and `exec` that of the program, 1 when we failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    log: str | None = None
    kind = "text"
    try:
        options, rest = words.split(given, GLOBAL, more=False)
        log, kind = words.last(options, "log"), words.last(options, "log-format") or "text"
        if words.switched(options, "version") or rest[:1] == ["version"]:
            _print_version()
            return 0
        if words.switched(options, "entry"):
            print(os.path.join(os.path.dirname(os.path.abspath(__file__)), "quick-entry"))
            return 0
        if not rest or words.switched(options, "help") or rest[0] in ("help", "--help"):
            sys.stdout.write(usage())
            return 0 if rest or words.switched(options, "help") else 1
        if words.switched(options, "systemd-cgroup"):
            raise InvalidOption("--systemd-cgroup", "true", "no systemd: groups are made as files")
        if rest[0] not in VERBS:
            raise InvalidOption("command", rest[0], f"one of {', '.join(VERBS)}")
        root = words.last(options, "root") or state.default_root()
        from sandbox_kernel.oci import verbs

        status = verbs.VERBS[rest[0]](os.path.abspath(root), rest[1:])
        sys.stdout.flush()
    except (SandboxError, OSError, *MALFORMED) as error:
        line = "".join(c if c.isprintable() else " " for c in said(error))
        _log(log, kind, line)
        sys.stderr.write(f"{NAME}: {line}\n")
        return 1
    return status


def usage() -> str:
    """The text of `--help`."""
    lines = [f"usage: {NAME} [--root DIR] [--log FILE] [--log-format text|json] COMMAND ...", ""]
    lines += [f"  {name:<9} {line}" for name, line in VERBS.items()]
    return "\n".join(lines) + "\n"


def _print_version() -> None:
    from sandbox_kernel.oci.document import VERSION

    package = sys.modules["sandbox_kernel"]  # which stands above this room, and was imported first
    print(f"{NAME} version {package.__version__}\nspec: {VERSION}")


def _log(path: str | None, kind: str, line: str) -> None:
    """For the caller that named a file: podman and containerd read the last error in it."""
    if path is None:
        return
    import json
    import time

    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if kind == "json":
        text = json.dumps({"level": "error", "msg": line, "time": moment})
    else:
        text = f'time="{moment}" level=error msg={json.dumps(line)}'
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        sys.stderr.write(f"{NAME}: write `{path}`: {error.strerror}\n")


if __name__ == "__main__":
    sys.exit(main())
