"""An exception of a cell as data: name, text, traceback. Imported only when there is one."""

import errno
import os
import traceback

MOST_TEXT = 1 << 18
HINT = (
    "Lines that start with `%` or `!` belong to IPython, and a cell in a container is Python only: "
    "use `%%container --program sh` for commands."
)

HINT_OF_CELLS = (
    "Magics of IPython are not there in this kernel: `!command` runs a command, and "
    "`%sandbox --help` as the first line tells what else there is."
)


def describe(problem, name, source, hint=HINT):
    """The header of an `error` frame, and the traceback as text."""
    trace = problem.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    shown = ours_removed(problem, trace)
    try:
        text = "".join(traceback.format_exception(type(problem), problem, shown))
    except Exception as second:
        text = "%s (and showing it raised %s)\n" % (type(problem).__name__, type(second).__name__)
    if isinstance(problem, SyntaxError) and is_magic(problem, name, source):
        text += hint + "\n"
    header = {
        "kind": "error",
        "name": type(problem).__name__[:200],
        "value": cut(value_of(problem), 16384),
        "number": problem.errno if isinstance(problem, OSError) else None,
        "space": None,
    }
    if header["number"] in (errno.ENOSPC, errno.EDQUOT):
        header["space"] = space()
    return header, cut(text, MOST_TEXT)


def ours_removed(problem, trace):
    """The traceback from the cell on, in every exception of the chain."""
    seen = set()
    first = problem
    while problem is not None and id(problem) not in seen:
        seen.add(id(problem))
        inner = problem.__traceback__ if problem is not first else trace
        while inner is not None and inner.tb_frame.f_code.co_filename.startswith("<sandbox "):
            inner = inner.tb_next
        problem.__traceback__ = inner
        problem = problem.__cause__ or problem.__context__
    return trace


def value_of(problem):
    try:
        return str(problem)
    except Exception as second:
        return "(its text raised %s)" % type(second).__name__


def is_magic(problem, name, source):
    """Whether the line that does not parse is one of IPython's."""
    if problem.filename != name or not problem.lineno:
        return False
    lines = source.split("\n")[problem.lineno - 1 : problem.lineno]
    return bool(lines) and lines[0].lstrip().startswith(("%", "!"))


def space():
    """Bytes used in the writable layer, or None."""
    try:
        found = os.statvfs("/")
    except OSError:
        return None
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def cut(text, most):
    """The beginning and the end, where a text is too long."""
    if len(text) <= most:
        return text
    return text[: most // 2] + "\n... cut ...\n" + text[-most // 2 :]
