"""`%container tree` as a tree that opens and closes; outside of notebooks it is the command's."""

from __future__ import annotations

import html
from collections.abc import Iterator

from magics import live
from magics.notebook import Notebook
from sandbox_kernel import arguments, grammar
from sandbox_kernel.cli import layers as of_command
from sandbox_kernel.cli import output
from sandbox_kernel.cli.layers import Told
from sandbox_kernel.image.layers.summing import Folder

MOST_FOLDERS = 2000
"""In one display: a front end gets slow of more."""


def show(notebook: Notebook, words: list[str]) -> bool:
    """False: the words mean something else than a tree to look at."""
    found = arguments.parse(words, of_command.VERBS["tree"].all_flags())
    for word in found.rest:
        notebook.hold(word)
    if found.own.keys() - {"depth"} or len(found.rest) != 1 or not live.in_a_notebook():
        return False
    depth = of_command.depth_of(found)
    told = of_command.tell(found.rest[0])
    from IPython.display import display

    text = "\n".join(output.clean(line) for line in of_command.lines(told, depth))
    bundle = {"text/plain": text, "text/html": "".join(_markup(told, depth))}
    display(bundle, raw=True)  # type: ignore[no-untyped-call]
    return True


def _markup(told: Told, depth: int) -> Iterator[str]:
    """Names come from images: they are text, whatever is in them."""
    yield f"<div><p>{_text(of_command.summary(told))}</p>"
    most = max((each.bytes for each in told.sum.layers), default=0) or 1
    folders = _Folders(MOST_FOLDERS)
    for number, (layer, each) in enumerate(zip(told.layers, told.sum.layers, strict=True), 1):
        yield f"<details><summary>layer {number} "
        yield f'<meter min="0" max="{most}" value="{each.bytes}"></meter> '
        yield f"<code>{_text(of_command.headline(layer, each))}</code></summary>"
        if layer.made_by:
            yield f"<p><code>{_text(output.short(layer.made_by, 200))}</code></p>"
        yield from folders.markup(each.root, depth)
        yield "</details>"
    if told.sum.paths:
        yield f"<details><summary>wasted {grammar.shown_size(told.sum.wasted)}</summary><ul>"
        for one in told.sum.paths:
            size = grammar.shown_size(one.bytes)
            yield f"<li>{size}, {one.times} x <code>/{_text(one.path)}</code></li>"
        yield "</ul></details>"
    yield "</div>"


class _Folders:
    """Writes folders until there are too many, and says then that there are more."""

    def __init__(self, most: int) -> None:
        self._left = most

    def markup(self, folder: Folder, depth: int) -> Iterator[str]:
        if not depth or not folder.below:
            return
        yield "<ul>"
        for name, below in of_command.largest_first(folder):
            if not self._left:
                yield "<li>...</li>"
                break
            self._left -= 1
            removed = f", {below.removed} removed" if below.removed else ""
            size = grammar.shown_size(below.bytes)
            yield f"<li><code>{_text(name)}/</code> {size}, {below.files} files{removed}"
            yield from self.markup(below, depth - 1)
            yield "</li>"
        yield "</ul>"


def _text(text: str) -> str:
    return html.escape(output.clean(text))
