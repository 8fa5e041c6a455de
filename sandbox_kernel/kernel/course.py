"""What `%sandbox course` and `%sandbox check NAME` show, as HTML and as text.

The sandbox kernels answer the first one; the second looks at what a notebook of the host has made.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from typing import NamedTuple

from sandbox_kernel.cli import output
from sandbox_kernel.course import contents, progress
from sandbox_kernel.course.checking import Outcome
from sandbox_kernel.course.contents import Chapter
from sandbox_kernel.course.texts import BEGAN_IN, Text, language
from sandbox_kernel.errors import HostLacks, InvalidOption

COURSE, CHECK = "course", "check"
DONE, NOT_YET = "\N{CHECK MARK}", "\N{BALLOT X}"
HEADINGS = (
    Text("", ""),
    Text("what was looked at", "看了什么"),
    Text("seen", "看到"),
    Text("wanted", "应当"),
    Text("read from", "读自"),
)
IS_DONE = Text("done", "完成了")
IS_NOT = Text("not yet", "还没有")
OPEN = Text("open", "待做")
COPY_THEM = Text(
    "`sandbox-kernel course` copies the notebooks into a folder of yours.",
    "`sandbox-kernel course` 会把这些笔记本复制到你自己的文件夹里。",
)


class Row(NamedTuple):
    """A row of a table: cells of text, and where the first one leads, if anywhere."""

    cells: tuple[str, ...]
    link: str = ""


def contents_bundle() -> dict[str, str]:
    """The chapters; each leads to its notebook where that lies in the folder of the notebook."""
    spoken, done = language(), progress.done()
    rows, total = [], 0
    for chapter in contents.CHAPTERS:
        marks = [
            f"{DONE if each.name in done else OPEN.in_language(spoken)} {each.name}: "
            f"{each.title.in_language(spoken)}"
            for each in chapter.exercises
        ]
        total += len(marks)
        title = f"{chapter.number}  {chapter.title.in_language(spoken)}"
        rows.append(Row((title, "; ".join(marks)), _link(chapter)))
    count = Text(
        f"{len(done)} of {total} exercises done", f"{total} 个练习，完成了 {len(done)} 个"
    ).in_language(spoken)
    if not any(row.link for row in rows):
        count += ". " + COPY_THEM.in_language(spoken)
    headings = (Text("chapter", "章"), Text("exercises", "练习"))
    return _bundle([heading.in_language(spoken) for heading in headings], rows, count)


def outcome_bundle(outcome: Outcome) -> dict[str, str]:
    """What a check looked at. One that is done is kept as done."""
    spoken = language()
    rows = [
        Row(
            (
                DONE if fact.holds else NOT_YET,
                fact.name.in_language(spoken),
                fact.seen.in_language(spoken),
                fact.wanted.in_language(spoken),
                fact.source,
            )
        )
        for fact in outcome.facts
    ]
    said = (IS_DONE if outcome.done else IS_NOT).in_language(spoken)
    last = f"{DONE if outcome.done else NOT_YET} {outcome.exercise}: {said}"
    if outcome.done:
        try:
            progress.mark(outcome.exercise)
        except HostLacks as problem:  # the exercise is done all the same
            last += f" ({problem})"
    return _bundle([heading.in_language(spoken) for heading in HEADINGS], rows, last)


def _link(chapter: Chapter) -> str:
    return chapter.file if os.path.exists(os.path.join(BEGAN_IN, chapter.file)) else ""


def _bundle(headings: Sequence[str], rows: Sequence[Row], last: str) -> dict[str, str]:
    """A table and a line below it, as HTML and as text."""

    def cell(row: Row, number: int) -> str:
        text = html.escape(output.clean(row.cells[number]))
        if row.link and number == 0:
            text = f'<a href="{html.escape(row.link)}">{text}</a>'
        return f'<td style="text-align: left">{text}</td>'

    head = "".join(f'<th style="text-align: left">{html.escape(each)}</th>' for each in headings)
    body = "".join(
        "<tr>" + "".join(cell(row, number) for number in range(len(row.cells))) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return {
        "text/plain": output.text_table(headings, [row.cells for row in rows]) + last,
        "text/html": f"{table}<p>{html.escape(output.clean(last))}</p>",
    }


def in_a_sandbox(words: Sequence[str]) -> dict[str, str] | None:
    """What a sandbox kernel answers to these words of `%sandbox`. None: they are of no course.

    Raises InvalidOption for `check`, for which the notebook's kernel has to be on the host.
    """
    if list(words) == [COURSE]:
        return contents_bundle()
    if words and words[0] in (COURSE, CHECK):
        allowed = f"`%sandbox {COURSE}` alone; exercises are checked where they are done: open "
        allowed += 'the chapter with the kernel "Python 3 (ipykernel)"'
        raise InvalidOption("%sandbox", " ".join(words), allowed)
    return None
