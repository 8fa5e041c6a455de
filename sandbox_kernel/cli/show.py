"""`sandbox-kernel show`: the views of notebooks as text, once."""

from __future__ import annotations

from sandbox_kernel import container, errors
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli.verb import Verb
from sandbox_kernel.observe import Observed
from sandbox_kernel.observe.source import wait
from sandbox_kernel.widgets import kinds, opening

_LANGUAGE = Flag("language", ("--language",), "LANGUAGE", "en or zh. Default: that of your locale.")


def show(found: Parsed) -> int:
    """Prints each view that is asked for."""
    names = kinds.read(found.rest[0])
    spoken = found.own.get("language")
    if spoken not in (None, "en", "zh"):
        raise errors.InvalidOption("--language", spoken, "en or zh")
    alone = all(name in kinds.ALONE for name in names)
    if len(found.rest) == 1 and not alone:
        raise errors.InvalidOption("CONTAINER", "", f"the container to show {names[0]} of")
    live = container.find(found.rest[1]) if len(found.rest) == 2 else None
    try:
        print("\n\n".join(text(name, live, spoken) for name in names))
    finally:
        if live is not None:
            live.close()
    return 0


def text(name: str, live: Observed | None, spoken: str | None = None) -> str:
    """One view of what there is now; of two looks, since rates are between two."""
    opened = opening.open_view(name, live, spoken)
    source, view = opened.source, opened.view
    try:
        telling = source.open()
        looks, settled = 0, False
        while looks < 2 or not settled:
            wait(telling, source.interval if looks else 0.0)
            looks, settled = looks + 1, source.settled
            facts = source.look()
            if facts is None:
                view.end("the container ended")
                break
            view.show(facts)
    finally:
        source.close()
        opened.closed()
    return view.text()


VERBS = {
    "show": Verb(
        f"show [options] {','.join(kinds.KINDS)} [CONTAINER]",
        "Print what a view of a notebook shows, as text: one or several, as in limits,layers.",
        show,
        (_LANGUAGE,),
        least=1,
        most=2,
    ),
}
