"""Every exception of this package, in one tree.

    SandboxError
    ├── InvalidOption (ValueError)          a value that is not allowed
    ├── CopyRefused                         more files or bytes were to be copied than allowed
    ├── NotAllowed (PermissionError)        above a ceiling of the user's own settings
    ├── HostLacks (OSError)                 this machine can't do what was asked
    │   └── LimitNotEnforceable             ... to enforce a limit; names the remedy
    ├── ImageError (LookupError)            an image reference that can't be resolved
    ├── ContainerfileError (ValueError)     a Containerfile is wrong at one place
    ├── BuildFailed (RuntimeError)          one instruction of a build failed; names its place
    │   └── RegistryError                   ... a registry did not give or take an image
    ├── ContainerError (RuntimeError)       a container could not be made, entered or ended
    │   ├── StepFailed                      ... one named step of it failed on one named object
    │   ├── NoSuchContainer (LookupError)   no container of that name or id
    │   ├── StateLost                       the state that cells left for the next ones is gone
    │   └── LauncherGone                    the launcher died; its containers died with it
    ├── CellFailed (RuntimeError)           code ended badly; says why, with limit and peak
    │   ├── OutOfMemory (MemoryError)
    │   ├── TooManyProcesses (BlockingIOError)
    │   ├── NoSpace (OSError)
    │   ├── TimedOut (TimeoutError)
    │   ├── ProgramFailed                   a program that is no Python cell ended with a status
    │   ├── NotReady (TimeoutError)         a service was not ready when it had to be
    │   ├── OutputCut                       more output than the limit; the rest was left out
    │   └── Killed                          ended from outside
    ├── CellRaised (RuntimeError)           code in a container raised an exception of its own
    ├── ItemsFailed (RuntimeError)          some items of a `map` failed; names each
    ├── ValueNotTransferable (TypeError)    a variable can't cross between inside and outside
    └── BadMessage (ValueError)             a Jupyter message or its frames are not as they must be

A message has one shape: what was being done, to what (in backticks), why it failed, what to do.
Of the docstrings `docs/reference/errors.md` is made: when it is raised; "Do:" and what then helps.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from `typing`, which is heavy for the launcher

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_NAMED = 5


class SandboxError(Exception):
    """Base of every exception that this package raises on purpose.

    Do: catch this one to catch them all.
    """


class InvalidOption(SandboxError, ValueError):
    """An option has a value that is not allowed, or is not known; nothing was started.

    Do: choose a value of the kind that the end of the message names.

    Attributes: `option` (as the user types it), `value` (as given), `allowed` (one sentence).
    """

    def __init__(self, option: str, value: object, allowed: str) -> None:
        super().__init__(f"option `{shown(option)}`: `{shown(value)}` is not allowed: {allowed}")
        self.option = option
        self.value = value
        self.allowed = allowed


class CopyRefused(SandboxError):
    """More was to be copied than the caller allowed; what was written until then is left.

    Do: copy less, or give the option that the message names a larger value.
    """

    def __init__(self, option: str, most: int, at: str) -> None:
        super().__init__(f"copy `{shown(at)}`: more than `{option}` {most} allows: give it more")
        self.option = option
        self.most = most


class NotAllowed(SandboxError, PermissionError):
    """A notebook, project or caller asked for more than the user's own settings allow.

    Do: ask for less, or widen the ceiling at the place that the message names.
    """

    def __init__(self, option: str, value: object, ceiling: str, remedy: str) -> None:
        super().__init__(
            f"option `{option}`: `{shown(value)}` is above what your settings allow "
            f"({ceiling}): {remedy}"
        )
        self.option = option
        self.value = value


class HostLacks(SandboxError, OSError):
    """This machine can't do what was asked.

    Do: what the message says; `sandbox-kernel doctor` lists all that this machine lacks.
    """


class LimitNotEnforceable(HostLacks):
    """A limit that was asked for can't be set or did not read back; nothing was started.

    Do: what the message says (mostly: delegate a control group), or leave the limit out.
    """

    def __init__(self, option: str, asked: object, host: str, remedy: str) -> None:
        super().__init__(
            f"limit `{option}`: asked for `{shown(asked)}`, but this host can't enforce it: "
            f"{host}: {remedy}"
        )
        self.option = option
        self.asked = asked
        self.host = host
        self.remedy = remedy
        self.status = 0
        self.passes = False


class ImageError(SandboxError, LookupError):
    """An image can't be had or used: its name, its bytes, or what it is made of is not right.

    Do: what the message says; `docs/images.md` lists all that can be named.
    """


class RegistryError(ImageError):
    """A registry did not give or take an image, or what it gave is not what was asked for.

    Do: what the message says; what was stored before is whole, and the next try goes on from it.

    Attributes: `step` (verb), `subject` (image, layer or address), `why`, `remedy`, `status` (of
    the answer; 0 when there was none), `passes` (asked again at once, it may go well).
    """

    def __init__(self, step: str, subject: object, why: str, remedy: str = "try again") -> None:
        super().__init__(f"{step} `{shown(subject)}`: {why}: {remedy}")
        self.step = step
        self.subject = str(subject)
        self.why = why
        self.remedy = remedy
        self.status = 0
        self.passes = False


class ContainerfileError(SandboxError, ValueError):
    """A Containerfile, or what belongs to it, is not as it must be; nothing was built.

    Do: mend the line that the message names.

    Attributes: `file`, `line` and `column` (both from 1), `why`.
    """

    def __init__(self, file: str, line: int, column: int, why: str) -> None:
        super().__init__(f"read `{shown(file)}`, line {line}, column {column}: {_printable(why)}")
        self.file = file
        self.line = line
        self.column = column
        self.why = why


class BuildFailed(SandboxError, RuntimeError):
    """An instruction of a Containerfile could not be carried out; no image was made.

    Do: look at the instruction and at the last lines of its output.

    Attributes: `file`, `line`, `column`, `instruction`, `why`, `status` of the program (None: it
    was no program that failed), `output` (the last lines that it wrote).
    """

    def __init__(
        self,
        place: tuple[str, int, int],
        instruction: str,
        why: str,
        *,
        status: int | None = None,
        output: str = "",
    ) -> None:
        self.file, self.line, self.column = place
        last = _printable(" | ".join(output.strip().splitlines()[-_MOST_NAMED:])[-600:])
        super().__init__(
            f"build `{shown(self.file)}`, line {self.line}, column {self.column}, "
            f"`{shown(instruction)}`: {_printable(why)}"
            + (f": it wrote last: {last}" if last else "")
        )
        self.instruction = instruction
        self.why = why
        self.status = status
        self.output = output


class ContainerError(SandboxError, RuntimeError):
    """A container could not be made, entered or ended.

    Do: `sandbox-kernel doctor` tries each part by itself.
    """


class StepFailed(ContainerError):
    """One step of making or entering a container failed; what was made so far is gone.

    Do: look at the object in the message; `sandbox-kernel doctor` tries each part by itself.

    Attributes: `step` (verb), `subject` (what it failed on), `errno` (0: no system call).
    """

    def __init__(self, step: str, subject: str, why: str, errno: int = 0) -> None:
        super().__init__(f"{step} `{subject}`: {why}")
        self.step = step
        self.subject = subject
        self.why = why
        self.errno = errno


class NoSuchContainer(ContainerError, LookupError):
    """No live container has this name or id.

    Do: `sandbox-kernel ps` lists those that live.
    """


class StateLost(ContainerError):
    """The state that the cells of a notebook left for the next ones is gone, or part of it.

    Do: run the cells again that made it; the next one begins with what the message says.
    """


class LauncherGone(ContainerError):
    """The launcher process ended; the containers it held ended with it.

    Do: start again: a new launcher removes what the old one left.
    """


class CellFailed(SandboxError, RuntimeError):
    """Code in a container ended badly for a reason outside its own control flow.

    Do: see the kinds below.
    """


class OutOfMemory(CellFailed, MemoryError):
    """The container reached its memory limit and was ended. Sizes in bytes.

    Do: raise `--memory`, or use less; files that are written count too.
    """

    def __init__(self, limit: int | None, peak: int | None) -> None:
        super().__init__(
            f"out of memory: the limit is {_size(limit)}, the peak was {_size(peak)}: "
            "raise it with `--memory`"
        )
        self.limit = limit
        self.peak = peak


class TooManyProcesses(CellFailed, BlockingIOError):
    """The container reached its limit of processes and threads.

    Do: raise `--pids-limit`, or start fewer at once.
    """

    def __init__(self, limit: int | None, peak: int | None) -> None:
        super().__init__(
            f"too many processes: the limit is {limit}, the peak was {peak}: "
            "raise it with `--pids-limit`"
        )
        self.limit = limit
        self.peak = peak


class NoSpace(CellFailed, OSError):
    """The writable layer of the container is full. Sizes in bytes.

    Do: raise `--storage-size` (and `--memory`, in which it lies), or mount a folder.
    """

    def __init__(self, limit: int | None, peak: int | None) -> None:
        super().__init__(
            f"no space left: the writable layer holds {_size(limit)}, {_size(peak)} were used: "
            "raise it with `--storage-size`"
        )
        self.limit = limit
        self.peak = peak


class TimedOut(CellFailed, TimeoutError):
    """The run took longer than its limit and was ended. Seconds.

    Do: raise `--timeout`, or `--timeout none`.
    """

    def __init__(self, limit: float) -> None:
        super().__init__(f"timed out: the limit is {limit:g} s: raise it with `--timeout`")
        self.limit = limit


class ProgramFailed(CellFailed):
    """A program ended with a status other than 0.

    Do: read what it wrote to its standard error.
    """

    def __init__(self, program: str, status: int) -> None:
        super().__init__(f"program `{shown(program)}` ended with status {status}")
        self.program = program
        self.status = status


class NotReady(CellFailed, TimeoutError):
    """A service in a container was not ready in time, or ended before; it was ended.

    Do: read what it wrote; give it more time by `--wait-time`.

    Attributes: `name` (of the container), `why`.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"wait for service `{shown(name)}`: {why}: more time: `--wait-time`")
        self.name = name
        self.why = why


class OutputCut(CellFailed):
    """A cell wrote more than its limit of output; the rest was left out. Sizes in bytes.

    Do: raise `--output-limit`, or write to a file.
    """

    def __init__(self, limit: int, size: int | None = None) -> None:
        one = f"one message of {_size(size)} was left out" if size else "the rest was left out"
        super().__init__(
            f"output cut: the limit is {_size(limit)}, {one}: raise it with `--output-limit`"
        )
        self.limit = limit
        self.size = size


class Killed(CellFailed):
    """The run was ended from outside, for the reason given.

    Do: start again, if it was not you who ended it.
    """


class CellRaised(SandboxError, RuntimeError):
    """Code in a container raised an exception; its name, text and traceback are as data here.

    Do: mend the code; `traceback` has the lines.
    """

    def __init__(self, name: str, value: str, traceback: str) -> None:
        super().__init__(f"{name}: {value}" if value else name)
        self.name = name
        self.value = value
        self.traceback = traceback


class ItemsFailed(SandboxError, RuntimeError):
    """Code that was run once for each of many items failed on some; the other results are there.

    Do: look at the items that the message names; `failures` has the exception of each.

    Attributes: `failures` (tuples of index, item in short, exception), `count` (of all items).
    """

    def __init__(self, failures: Sequence[tuple[int, str, Exception]], count: int) -> None:
        lines = [
            f"item {index} (`{item}`): {_line(problem)}"
            for index, item, problem in failures[:_MOST_NAMED]
        ]
        if len(failures) > _MOST_NAMED:
            lines.append(f"and {len(failures) - _MOST_NAMED} more")
        super().__init__(f"{len(failures)} of {count} items failed: {'; '.join(lines)}")
        self.failures = tuple(failures)
        self.count = count


class ValueNotTransferable(SandboxError, TypeError):
    """A variable can't cross between inside and outside.

    Do: carry JSON values, numpy arrays, Arrow tables or bytes.
    """

    def __init__(self, name: str, kind: str, remedy: str) -> None:
        super().__init__(f"variable `{name}` of type `{kind}` can't cross: {remedy}")
        self.name = name
        self.kind = kind


class BadMessage(SandboxError, ValueError):
    """A message came whose frames, signature or form are wrong; it was dropped.

    Do: nothing, unless it was you who sent it.
    """

    def __init__(self, verb: str, subject: str, why: str) -> None:
        super().__init__(f"{verb} `{shown(subject)}`: {shown(why)}")


def shown(value: object) -> str:
    """The value as one short printable line, so that a hostile value can't forge a message."""
    text = str(value)
    clean = "".join(c if c.isprintable() else "�" for c in text[:200])
    return clean + ("…" if len(text) > 200 else "")


def _printable(text: str) -> str:
    """Text of a build as one line that moves no cursor."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _line(problem: Exception) -> str:
    """An exception in one line, named as it was named inside."""
    named = isinstance(problem, CellRaised)
    return shown(problem if named else f"{type(problem).__name__}: {problem}")


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} bytes"
