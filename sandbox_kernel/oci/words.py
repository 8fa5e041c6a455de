"""The words of this command line: options of a verb, in the ways that callers write them."""

from __future__ import annotations

from sandbox_kernel.errors import InvalidOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Found = dict[str, list[str]]


def split(words: Sequence[str], takes: Mapping[str, str], *, more: bool) -> tuple[Found, list[str]]:
    """Options by their long name, and the rest.

    `takes` has what is written (`--name`, `-n`) -> name, or `name!` for a switch. Options end at
    the first word that is none, or, with `more`, go on behind it. Raises InvalidOption.
    """
    found: Found = {}
    rest: list[str] = []
    todo = list(words)
    while todo:
        word = todo.pop(0)
        if word == "--":
            rest += todo
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if not more:
                rest += todo
                break
            continue
        name, equals, value = word.partition("=")
        if name.startswith("-") and not name.startswith("--") and len(name) > 2:
            name = f"-{name}"  # Go's way: one dash is as good as two
        kind = takes.get(name)
        if kind is None:
            raise InvalidOption(name, name, "there is no such option")
        if kind.endswith("!"):
            found.setdefault(kind[:-1], []).append(value if equals else "true")
            continue
        if not equals:
            if not todo:
                raise InvalidOption(name, "nothing", "a value")
            value = todo.pop(0)
        found.setdefault(kind, []).append(value)
    return found, rest


def table(names: Iterable[str], **short: str) -> dict[str, str]:
    """Options by their long names (`name!` for a switch), and letters for some of them."""
    longs = {name.removesuffix("!"): name for name in names}
    return {f"--{long}": name for long, name in longs.items()} | {
        f"-{letter}": longs[name.replace("_", "-")] for letter, name in short.items()
    }


def last(found: Found, name: str) -> str | None:
    """The value that was given last."""
    return found[name][-1] if found.get(name) else None


def switched(found: Found, name: str) -> bool:
    """Whether a switch is on."""
    return last(found, name) not in (None, "false", "0")


def number(found: Found, name: str) -> int | None:
    """A whole number. Raises InvalidOption."""
    text = last(found, name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise InvalidOption(f"--{name}", text, "a whole number") from None
