"""Which modules the cells of this program import again and again: a template has them ready."""

from __future__ import annotations

import ast
import functools
import sys
import threading
from collections import OrderedDict

MOST = 16
"""Modules that are remembered; the one that was not imported for longest gives way."""
OFTEN = 2
"""A module that so many cells imported is worth having ready."""
LONGEST_CODE = 100_000

_counts: OrderedDict[str, int] = OrderedDict()
_lock = threading.Lock()


def learn(code: str) -> None:
    """Remember what a cell imports, of what was installed: the standard library is quick."""
    if "import" not in code or len(code) > LONGEST_CODE:
        return
    with _lock:
        for name in imported(code):
            _counts[name] = _counts.get(name, 0) + 1
            _counts.move_to_end(name)
        while len(_counts) > MOST:
            _counts.popitem(last=False)


def learnt() -> tuple[str, ...]:
    """What is worth having ready, sorted, so that the same modules are the same template."""
    with _lock:
        return tuple(sorted(name for name, count in _counts.items() if count >= OFTEN))


def forget() -> None:
    """Begin anew."""
    with _lock:
        _counts.clear()


@functools.lru_cache(maxsize=256)
def imported(code: str) -> tuple[str, ...]:
    """Top-level names of the modules that the code imports; none of code that is not Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(alias.name.partition(".")[0] for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found[node.module.partition(".")[0]] = None
    return tuple(name for name in found if name not in sys.stdlib_module_names)
