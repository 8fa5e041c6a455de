"""JSON as the module `json` reads and writes it, by its C half alone.

Importing `json` brings regular expressions and enumerations, and takes as long as Python's own
start: too long for a command whose callers count the time. Whatever the C half does not take, and
each error, is left to `json` itself, so what is read, written and raised is the same.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\n\r"


class _Options:
    """What `json.JSONDecoder` has when nobody asked for anything."""

    array_hook = object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"-Infinity": -float("inf"), "Infinity": float("inf"), "NaN": float("nan")}.get
    strict = True


_options: Any = _Options
_scan = make_scanner(_options)


def read(text: str | bytes) -> Any:
    """As `json.loads`. Raises ValueError, RecursionError."""
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8", "surrogatepass")
        found, end = _scan(decoded, len(decoded) - len(decoded.lstrip(_SPACE)))
    except (StopIteration, ValueError):
        pass  # it is said below what is wrong with it, or it is in another encoding
    else:
        if not decoded[end:].strip(_SPACE):
            return found
    import json

    return json.loads(text)


def written(value: object, *, compact: bool = False, sort_keys: bool = False) -> str:
    """As `json.dumps`. Raises TypeError, ValueError, RecursionError."""
    item, key = (",", ":") if compact else (", ", ": ")
    encoder = make_encoder(
        {}, _refuse, encode_basestring_ascii, None, key, item, sort_keys, False, True
    )  # fmt: skip
    return "".join(encoder(value, 0))


def _refuse(value: object) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
