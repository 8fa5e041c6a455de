"""Answers about code that does not run: is it complete, what may follow, what is this name."""

from __future__ import annotations

import builtins
import codeop
import inspect as reading
import keyword
import pkgutil
import re
import sys
import warnings
from typing import Any

import msgspec

from .. import contents
from ..commands import SANDBOX
from ..zmtp import Buffer
from .session import Session

WORD = re.compile(r"[^\W\d][\w.]*$|$")
IMPORT = re.compile(r"\s*(?:import|from)\s+(?:[\w.]+\s*,\s*)*([\w.]*)$")
MOST_MATCHES = 2000


class ExecuteRequest(contents.ExecuteRequest):
    """From a client, with what this kernel reads of it beside."""

    store_history: bool = True
    user_expressions: dict[str, str] = msgspec.field(default_factory=dict)


class CodeRequest(msgspec.Struct):
    """`complete_request`, `inspect_request`, `is_complete_request`."""

    code: str
    cursor_pos: int | None = None
    detail_level: int = 0


execute_request = msgspec.json.Decoder(ExecuteRequest)
_code = msgspec.json.Decoder(CodeRequest)


def is_complete(content: Buffer) -> dict[str, Any]:
    """Whether the code can run as it is, or what the next line's indentation is."""
    try:
        code = _code.decode(content).code
    except (msgspec.MsgspecError, UnicodeError):
        return {"status": "unknown"}
    if code.startswith((SANDBOX, "!")):
        return {"status": "complete"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = codeop.compile_command(code, "<cell>", "exec")
    except (SyntaxError, ValueError, OverflowError):
        return {"status": "invalid"}
    lines = code.splitlines() or [""]
    in_block = lines[-1].startswith((" ", "\t")) and not code.endswith("\n\n")
    if found is not None and not (in_block and not code.endswith("\n")):
        return {"status": "complete"}
    indent = lines[-1][: len(lines[-1]) - len(lines[-1].lstrip())]
    return {"status": "incomplete", "indent": indent + "    " * lines[-1].rstrip().endswith(":")}


def complete(session: Session, content: Buffer) -> dict[str, Any]:
    """What may stand at the cursor."""
    asked = _code.decode(content)
    position = len(asked.code) if asked.cursor_pos is None else asked.cursor_pos
    before = asked.code[: max(0, position)]
    line = before.rpartition("\n")[2]
    names = WORD.search(line)
    word = names[0] if names else ""
    found = session.complete(before, word)
    if found is None:
        found = static_matches(line, word, session.known())
    stem = word.rpartition(".")[0]
    matches = sorted(set(found))[:MOST_MATCHES]
    return {
        "status": "ok",
        "matches": matches,
        "cursor_start": len(before) - len(word) + (len(stem) + 1 if stem else 0),
        "cursor_end": len(before),
        "metadata": {},
    }


def static_matches(line: str, word: str, known: tuple[str, ...]) -> list[str]:
    """Of what is there in every cell: builtins, keywords, modules, values that are shared."""
    if importing := IMPORT.match(line):
        stem, dot, last = importing[1].rpartition(".")
        return [n for n in _modules(stem if dot else "") if n.startswith(last)]
    stem, dot, last = word.rpartition(".")
    if dot:
        owner = getattr(builtins, stem, None) or _standard_module(stem)
        return [] if owner is None else [n for n in dir(owner) if n.startswith(last)]
    names = (*dir(builtins), *keyword.kwlist, *known)
    return [name for name in names if name.startswith(last)] if last else list(known)


def _standard_module(name: str) -> object | None:
    """A module of the standard library that this process has loaded: nothing else is imported."""
    return sys.modules.get(name) if name.partition(".")[0] in sys.stdlib_module_names else None


def _modules(package: str) -> list[str]:
    if package:
        return [name for name in dir(_standard_module(package) or object()) if name[:1] != "_"]
    return [*sys.stdlib_module_names, *(module.name for module in pkgutil.iter_modules())]


def inspect(session: Session, content: Buffer) -> dict[str, Any]:
    """What is known of the name at the cursor."""
    asked = _code.decode(content)
    position = len(asked.code) if asked.cursor_pos is None else asked.cursor_pos
    start = re.search(r"[\w.]*$", asked.code[:position])
    rest = re.match(r"\w*", asked.code[position:])
    name = (start[0] if start else "") + (rest[0] if rest else "")
    text = session.inspect(name, asked.detail_level)
    if text is None:
        text = static_text(name)
    data = {"text/plain": text} if text else {}
    return {"status": "ok", "found": bool(text), "data": data, "metadata": {}}


def static_text(name: str) -> str:
    """Signature and documentation of a builtin."""
    value = getattr(builtins, name, None) if name.isidentifier() else None
    if value is None:
        return ""
    try:
        signature = f"{name}{reading.signature(value)}"
    except (TypeError, ValueError):
        signature = name
    return f"{signature}\n\n{reading.getdoc(value) or ''}".rstrip()
