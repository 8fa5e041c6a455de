"""The reference is what the program declares: out of date pages fail, and so do missing verbs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sandbox_kernel import errors, settings
from sandbox_kernel.cli import main

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", REFERENCE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generator()


@pytest.mark.parametrize("name", generate.pages())
def test_a_page_is_what_the_program_declares(name: str) -> None:
    assert (REFERENCE / name).read_text() == generate.pages()[name], "run `make docs`"


def test_every_page_is_made_and_every_one_says_so() -> None:
    made = {page.name for page in REFERENCE.iterdir() if page.is_file()} - {"generate.py"}
    assert made == set(generate.pages())
    assert all("Made from" in text for text in generate.pages().values())


@pytest.mark.parametrize("name", settings.OPTIONS)
def test_every_setting_stands_in_the_reference_with_all_its_spellings(name: str) -> None:
    row = next(
        line
        for line in (REFERENCE / "settings.md").read_text().splitlines()
        if line.startswith(f"| `{name}` |")
    )

    assert all(f"`{flag}`" in row for flag in settings.OPTIONS[name].flags)


def test_every_exception_stands_in_the_tree_of_its_module_and_in_the_reference() -> None:
    page = (REFERENCE / "errors.md").read_text()
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.SandboxError):
            assert f"\n| `{name}` |" in page
            assert name in str(errors.__doc__)


@pytest.mark.parametrize("name", [name for name, _ in generate.verbs()])
def test_a_verb_prints_the_help_that_the_reference_tells(name: str) -> None:
    verb = dict(generate.verbs())[name]
    printed = subprocess.run(
        [sys.executable, "-m", "sandbox_kernel.cli.main", name, "--help"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout

    assert printed.startswith(f"usage: sandbox-kernel {verb.usage}\n")
    assert f"[`sandbox-kernel {name}`](#{name})" in (REFERENCE / "command-line.md").read_text()
    for flag in verb.all_flags():
        assert all(spelling in printed for spelling in flag.spellings)


def test_a_spelling_of_a_verb_means_one_thing() -> None:
    for name, verb in generate.verbs():
        spellings = [spelling for flag in verb.all_flags() for spelling in flag.spellings]
        assert len(spellings) == len(set(spellings)), name


def test_the_overview_of_the_command_lists_its_verbs() -> None:
    overview = main.usage()

    assert all(f"\n  {name} " in overview for name, _ in generate.verbs())
