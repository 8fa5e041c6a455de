"""What the pages tell people to type is there: commands, verbs, options, magics, settings."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

import documents
import pytest
from documents import FOR_USERS, REPOSITORY

from magics import grammar
from magics import verbs as subcommands
from sandbox_kernel import arguments, settings
from sandbox_kernel.cli import main
from sandbox_kernel.cli.verb import Verb
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.kernel.cells import commands as cells

GENERATED = {f"docs/reference/{path.name}" for path in (REPOSITORY / "docs/reference").glob("*.md")}
FOLDERS = "sandbox_kernel|magics|tests|benchmarks|kernelspec|notebooks"
PAGES = [
    name
    for name in (documents.name_of(page) for page in documents.tracked("*.md"))
    if name not in GENERATED
]


def verbs() -> dict[str, Verb]:
    return {
        name: importlib.import_module(f"sandbox_kernel.cli.{module}").VERBS[name]
        for name, (module, _) in main.VERBS.items()
    }


def all_spellings() -> Iterator[str]:
    for verb in verbs().values():
        for flag in verb.all_flags():
            yield from flag.spellings
    for flag in (*grammar.cell_flags(), arguments.HELP):
        yield from flag.spellings


def test_the_pages_for_users_show_commands_and_magics() -> None:
    for page in FOR_USERS:
        assert list(documents.commands(page))
        assert list(documents.magics(page))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one(page: str) -> None:
    for words in documents.commands(page):
        name, *rest = words
        if name in ("COMMAND", "--help", "..."):
            continue
        assert name in verbs(), words
        verb = verbs()[name]
        if any(word.startswith("[") or word == "..." for word in rest):
            continue
        found = arguments.parse(rest, verb.all_flags(), command=verb.command)
        settings.read_options(found.options, settings.COMMAND_LINE)
        assert verb.most is None or len(found.rest) <= verb.most, words
        assert len(found.rest) >= verb.least or not rest, words


@pytest.mark.parametrize("page", PAGES)
def test_every_magic_of_a_page_is_one(page: str) -> None:
    for line in documents.magics(page):
        magic, _, rest = line.partition(" ")
        if magic == "%container" and rest:
            assert rest.split()[0] in subcommands.VERBS, line
        elif magic == "%%container" and rest.startswith("build "):
            arguments.parse(arguments.words(rest)[1:], verbs()["build"].all_flags())
        elif magic == "%%container":
            grammar.read_cell(rest)
        elif magic == "%sandbox" and rest.split()[:1] in (["course"], ["check"]):
            continue  # the course runs in a plain kernel
        elif magic == "%sandbox":
            cells.read(rest)  # knows all that the other kernel knows, and more


@pytest.mark.parametrize("page", PAGES)
def test_every_option_of_a_page_is_one(page: str) -> None:
    known = set(all_spellings())
    unknown = []
    for span in documents.spans(page):
        if span.startswith("--"):
            unknown += [word for word in re.findall(r"--[a-z-]+", span) if word not in known]

    assert unknown == []


def test_an_option_that_is_none_would_be_found() -> None:
    with pytest.raises(InvalidOption):
        arguments.parse(["--memroy=1g", "host"], verbs()["run"].all_flags(), command=True)
    assert "--memroy" not in set(all_spellings())


def test_the_readmes_lead_to_the_same_places() -> None:
    english = documents.links(REPOSITORY / "README.md")
    chinese = documents.links(REPOSITORY / "README.zh-CN.md")

    def shared(links: list[str]) -> list[str]:
        same = [link.replace("notebooks/zh/", "notebooks/en/") for link in links]
        return [link for link in same if link not in ("README.md", "README.zh-CN.md")]

    assert shared(english) == shared(chinese)


@pytest.mark.parametrize("folder", ["docs", "docs/reference", "docs/decisions"])
def test_every_page_can_be_found_from_another(folder: str) -> None:
    pages = documents.tracked("*.md")
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in pages
        for link in documents.links(page)
        if not re.match(r"[a-z]+:", link)
    }
    lost = [documents.name_of(page) for page in (REPOSITORY / folder).glob("*.md")
        if page.resolve() not in linked]  # fmt: skip

    assert lost == []


def test_every_picture_is_on_a_page() -> None:
    shown = {
        (page.parent / link).resolve()
        for page in documents.tracked("*.md")
        for link in documents.links(page)
    }
    pictures = list((REPOSITORY / "docs/images").iterdir())

    assert pictures
    assert [picture.name for picture in pictures if picture.resolve() not in shown] == []


def test_every_place_of_the_code_that_a_page_names_is_there() -> None:
    lost = []
    for page in PAGES:
        for span in documents.spans(page):
            place = re.fullmatch(rf"({FOLDERS})/[\w./-]*", span)
            if place and not (REPOSITORY / span).exists():
                lost.append(f"{page}: {span}")

    assert lost == []


def test_every_promise_of_the_readme_has_its_part_in_the_specification() -> None:
    table = re.search(r"^\| promise .*?\n\n", (REPOSITORY / "README.md").read_text(), re.M | re.S)
    assert table
    promises = re.findall(r"^\| (?!promise)([A-Z][^|]*?) \|", table[0], re.M)
    parts = re.findall(r"^## (.*)$", (REPOSITORY / "SPECIFICATION.md").read_text(), re.M)

    assert promises
    assert set(promises) <= set(parts)
