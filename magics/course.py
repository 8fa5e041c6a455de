"""`%sandbox course` and `%sandbox check NAME`: what there is to learn, and whether it is done."""

from __future__ import annotations

from collections.abc import Mapping

from magics import grammar
from sandbox_kernel.course import checking
from sandbox_kernel.course.checking import Outcome
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.kernel.course import contents_bundle, outcome_bundle


def run(words: list[str], variables: Mapping[str, object]) -> None:
    """One of the two. Raises InvalidOption for words that are neither."""
    if words == [grammar.COURSE]:
        _show(contents_bundle())
    elif words[0] == grammar.CHECK and len(words) == 2:
        show_outcome(checking.run(words[1], variables))
    else:
        allowed = "`%sandbox course`, or `%sandbox check NAME` with the name of one exercise"
        raise InvalidOption("%sandbox", " ".join(words), allowed)


def show_outcome(outcome: Outcome) -> None:
    """What a check looked at. One that is done is kept as done."""
    _show(outcome_bundle(outcome))


def _show(bundle: dict[str, str]) -> None:
    from IPython.display import display

    display(bundle, raw=True)  # type: ignore[no-untyped-call]
