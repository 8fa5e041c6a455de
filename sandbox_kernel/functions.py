"""A Python function of the caller as the code of a cell: its source, its arguments, its call.

Only the source travels. So a function is refused, by name of what it lacks, when it uses anything
of the place where it stands: a closure, a global name, a decorator. Annotations are not evaluated.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import symtable
import tokenize
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sandbox_kernel.errors import InvalidOption

_KNOWN_INSIDE = {*dir(builtins), "display"}


class Source(NamedTuple):
    """Code that defines a function and calls it with variables of the cell."""

    code: str
    name: str
    first_line: int


def source_of(
    function: Callable[..., Any],
    *,
    returned: str,
    positional: Iterable[str] = (),
    named: Iterable[str] = (),
) -> Source:
    """The code of a cell that calls `function` with the variables of these names.

    What it returns is the variable `returned`.

    Raises InvalidOption when its source can't be read, when it needs more than its arguments, or
    when these are no arguments of it.
    """
    text, definition = _definition(function)
    _refuse_what_stays(function, definition)
    positional, named = tuple(positional), tuple(named)
    try:
        inspect.signature(function).bind(*positional, **dict.fromkeys(named))
    except TypeError as error:
        called = f"{definition.name}{inspect.signature(function)}"
        raise InvalidOption(
            "inputs", ", ".join((*positional, *named)) or "nothing",
            f"the arguments of `{called}`: {error}",
        ) from None  # fmt: skip
    # The values are taken before the function is there, which may have the name of one of them.
    pairs = ", ".join(f"{name!r}: {name}" for name in named)
    given = f"_given = [{', '.join(positional)}], {{{pairs}}}"
    header = f"from __future__ import annotations; {given}\n"
    if text[:1].isspace():  # it stands within something, and its strings must not be shifted
        header += "if True:\n"
    wait = "await " if isinstance(definition, ast.AsyncFunctionDef) else ""
    call = f"{returned} = {wait}{definition.name}(*_given[0], **_given[1])\n"
    first_line = function.__code__.co_firstlineno - header.count("\n")
    code = f"{header}{text.rstrip()}\n{call}"
    return Source(code, f"<function {definition.name}>", max(1, first_line))


def _definition(
    function: Callable[..., Any],
) -> tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The source of a function as it stands, and parsed."""
    name = getattr(function, "__name__", type(function).__name__)
    if not inspect.isfunction(function):
        raise InvalidOption("code", name, "text, or a function that is defined by `def`")
    if name == "<lambda>":
        raise InvalidOption("code", name, "a function with a name: define it by `def`")
    try:
        found = _standing_there(function)
    except (OSError, TypeError):
        raise InvalidOption(
            "code", name, "a function whose source is in a file or a cell: this one has none"
        ) from None
    code = inspect.unwrap(function).__code__
    if found is None or found[1].name != code.co_name:
        place = f"line {code.co_firstlineno} of {code.co_filename}"
        raise InvalidOption(
            "code", name,
            f"a function whose source is in a file or a cell: at {place} stands something else "
            "now, so define it anew",
        )  # fmt: skip
    return found


def _standing_there(
    function: Callable[..., Any],
) -> tuple[str, ast.FunctionDef | ast.AsyncFunctionDef] | None:
    """The function that stands now where this one was defined; None where none does.

    It is another one in a file that was changed since; and after `exec`, where the interpreter
    remembers some other text as `<string>`. Raises OSError, TypeError where there is no text.
    """
    try:
        text = inspect.getsource(function)
        tree = ast.parse(f"if True:\n{text}" if text[:1].isspace() else text)
    except (SyntaxError, tokenize.TokenError):
        return None
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return next(((text, node) for node in ast.walk(tree) if isinstance(node, definitions)), None)


def _refuse_what_stays(
    function: Callable[..., Any], definition: ast.FunctionDef | ast.AsyncFunctionDef
) -> None:
    """Raises InvalidOption for what a function uses of the place where it stands."""
    if definition.decorator_list:
        shown = ast.unparse(definition.decorator_list[0])
        allowed = f"a function without decorators: `@{shown}` stays outside"
        raise InvalidOption("code", definition.name, allowed)
    lacking = sorted({*function.__code__.co_freevars, *_global_names(definition)})
    if lacking:
        names = ", ".join(f"`{name}`" for name in lacking)
        raise InvalidOption(
            "code", definition.name,
            f"a function that uses only its arguments, and {names} would stay outside: import "
            "modules inside the function, and give values by `inputs`",
        )  # fmt: skip


def _global_names(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The names that the function and its defaults take from its module, without builtins."""
    bare = ast.fix_missing_locations(_WithoutAnnotations().visit(definition))
    table = symtable.symtable(ast.unparse(bare), definition.name, "exec")
    used: set[str] = set()
    made: set[str] = set()
    waiting = [table]
    while waiting:
        scope = waiting.pop()
        waiting += scope.get_children()
        for symbol in scope.get_symbols():
            if scope is not table and not symbol.is_global():
                continue
            if symbol.is_referenced():
                used.add(symbol.get_name())
            if symbol.is_assigned() or symbol.is_imported():
                made.add(symbol.get_name())
    return used - made - _KNOWN_INSIDE


class _WithoutAnnotations(ast.NodeTransformer):
    """They are never evaluated inside, so what they name is not needed there."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)
