"""Where the command starts: finds the verb, reads its words, turns an error into one line."""

from __future__ import annotations

import atexit
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# verb -> (module, one line). Modules are imported when their verb is used.
VERBS = {
    "run": ("running", "run a program in a new container"),
    "exec": ("running", "run a program in a container that is there"),
    "ps": ("listing", "list containers"),
    "inspect": ("listing", "print everything about a container or an image"),
    "plan": ("planning", "print what would be in force, and why, without starting anything"),
    "learn-seccomp": ("learning", "make a filter of the system calls that a program makes"),
    "limits": ("changing", "print or change the limits of a live container"),
    "logs": ("listing", "print what a container's program wrote"),
    "top": ("top", "show use against limits"),
    "show": ("show", "print what a view of a notebook shows"),
    "stop": ("changing", "end a container's processes"),
    "rm": ("changing", "remove containers"),
    "net": ("net", "list, make and change networks; show what goes on in them"),
    "capture": ("capture", "show the packets of a container"),
    "diff": ("files", "list what changed in a container's files, or between images"),
    "cp": ("files", "copy files into or out of a container"),
    "build": ("building", "build an image from a Containerfile"),
    "pull": ("registries", "fetch an image from a registry"),
    "push": ("registries", "bring an image to a registry"),
    "tags": ("registries", "list the tags of a repository in a registry"),
    "referrers": ("registries", "list what refers to an image in a registry"),
    "images": ("images", "list images"),
    "history": ("images", "print the steps that made an image"),
    "tree": ("layers", "print which layer of an image brings which files"),
    "commit": ("layers", "keep a container's files as an image"),
    "tag": ("images", "give an image one more name"),
    "save": ("archives", "write images into an archive"),
    "load": ("archives", "read images out of an archive"),
    "rmi": ("images", "remove images"),
    "prune": ("images", "remove what no image needs"),
    "image": ("images", "check, repair or inspect what is stored"),
    "events": ("listing", "print what happens to containers, as it happens"),
    "sbom": ("materials", "list what is installed in an image, as SPDX"),
    "audit": ("audit", "print the record of what ran and what was refused"),
    "pool": ("pool", "show, warm or stop what is kept ready between kernels"),
    "course": ("course", "copy the notebooks of the course into a folder"),
    "install": ("kernelspecs", "install a Jupyter kernel"),
    "uninstall": ("kernelspecs", "remove a Jupyter kernel that `install` made"),
    "runtime": ("oci", "be an OCI runtime for podman, buildah and others"),
    "doctor": ("doctor", "say what this machine can do, and how to mend what it can't"),
}
FAILED, INTERRUPTED, USAGE = 125, 130, 125
NO_THREAD = "can't start new thread"  # Python's RuntimeError where no process is left for it


def program() -> None:
    """The process of the command: `main`, and its status as the process's own.

    It ends without taking Python's modules apart first, since that is a tenth of the time of a
    short command. All else is as ever: threads are waited for, and whatever is registered for the
    exit runs, because what was registered first runs last.
    """
    gc.set_threshold(100_000, 50, 50)  # what is imported is no garbage, and there is much of it
    status: list[int] = []
    atexit.register(_leave, status)
    status.append(main())
    sys.exit(status[0])


def _leave(status: list[int]) -> None:
    """Ends the process when all that it printed has gone; else Python says what did not."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    if status:  # none after an exception, whose status Python has
        os._exit(status[0])


def main(argv: Sequence[str] | None = None) -> int:
    """The command, in a process that may go on; returns the exit status."""
    _open_standard_descriptors()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in ([], ["--help"], ["help"], ["-h"]):
        sys.stdout.write(usage())
        return 0 if words else USAGE
    if words[0] in ("--version", "version"):
        from sandbox_kernel import __version__

        print(f"sandbox-kernel {__version__}")
        return 0
    if words[0] == "runtime" and "--help" not in words:  # straight: its callers count the time
        if argv is None:
            from sandbox_kernel.oci.entry import command

            command(words[1:])
        from sandbox_kernel.oci import main as runtime

        return runtime.main(words[1:])
    if words[0] not in VERBS:
        return _complain(f"`{_short(words[0])}`: no such command: see `sandbox-kernel --help`")
    return _guarded(words[0], words[1:])


def _guarded(name: str, words: list[str]) -> int:
    """Runs a verb; whatever goes wrong is one line on stderr and an exit status."""
    from sandbox_kernel.errors import SandboxError

    try:
        return _run(name, words)
    except SandboxError as error:
        from sandbox_kernel import audit

        audit.refused(error, by="command line")
        return _complain(f"{name}: {error}")
    except BrokenPipeError:
        # the reader of our output went away: what is still buffered must not raise again
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    except KeyboardInterrupt:
        return INTERRUPTED
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        return _complain(f"{name}: {error}: no more processes are to be had: end some first")
    except OSError as error:
        where = f" `{_short(str(error.filename))}`" if error.filename is not None else ""
        return _complain(f"{name}{where}: {error.strerror or error}")


def usage() -> str:
    """The text of `sandbox-kernel --help`."""
    lines = ["usage: sandbox-kernel COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<10} {line}" for name, (_, line) in VERBS.items()]
    lines += ["", "`sandbox-kernel COMMAND --help` lists what a command takes.", ""]
    return "\n".join(lines)


def _run(name: str, words: list[str]) -> int:
    import importlib

    from sandbox_kernel import arguments
    from sandbox_kernel.errors import InvalidOption

    module = importlib.import_module(f"sandbox_kernel.cli.{VERBS[name][0]}")
    verb = module.VERBS[name]
    found = arguments.parse(words, verb.all_flags(), command=verb.command)
    if found.own.pop("help", False):
        sys.stdout.write(verb.help())
        return 0
    count = len(found.rest)
    if count < verb.least or (verb.most is not None and count > verb.most):
        given = found.rest[verb.most] if verb.most is not None and count > verb.most else "nothing"
        raise InvalidOption("arguments", given, f"sandbox-kernel {verb.usage}")
    status: int = verb.run(found)
    sys.stdout.flush()
    return status


def _complain(line: str) -> int:
    """One line on stderr, whatever the message holds."""
    clean = "".join(c if c.isprintable() else " " for c in line)
    sys.stderr.write(f"sandbox-kernel: {clean}\n")
    return FAILED


def _short(text: str) -> str:
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:200])
    return clean + ("…" if len(text) > 200 else "")


def _open_standard_descriptors() -> None:
    """Started with 0, 1 or 2 closed, the next file opened would become standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


if __name__ == "__main__":
    program()
