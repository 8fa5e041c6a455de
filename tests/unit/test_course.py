"""Promises of the course itself: its contents, languages, progress, and pages without a kernel."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import nbformat
import pytest

from magics import course
from sandbox_kernel.cli import output
from sandbox_kernel.cli.main import main
from sandbox_kernel.course import checking, contents, copying, progress, texts
from sandbox_kernel.errors import InvalidOption

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(REPOSITORY.glob("notebooks/*/*.ipynb"))


def test_the_contents_are_the_notebooks_in_both_languages() -> None:
    named = [chapter.file for chapter in contents.CHAPTERS]

    for language in texts.LANGUAGES:
        folder = Path(copying.shipped(), language)
        assert sorted(path.name for path in folder.glob("*.ipynb")) == named


@pytest.mark.parametrize("chapter", contents.CHAPTERS, ids=lambda chapter: chapter.number)
def test_each_exercise_has_a_cell_a_check_and_two_solutions(chapter: contents.Chapter) -> None:
    names = [exercise.name for exercise in chapter.exercises]
    if names:
        checks = importlib.import_module(f"sandbox_kernel.course.checks.{chapter.checks}")
        assert all(callable(getattr(checks, name)) for name in names)
    for language in texts.LANGUAGES:
        notebook = json.loads(Path(copying.shipped(), language, chapter.file).read_text())
        cells = notebook["cells"]
        asked = [cell["metadata"].get("exercise") for cell in cells]
        assert [name for name in asked if name] == names
        for name in names:
            below = cells[asked.index(name) + 1]
            assert "".join(below["source"]) == f"%sandbox check {name}"
    for kind in ("right", "wrong"):
        solutions = REPOSITORY / "tests/course" / kind / f"{chapter.number}.ipy"
        text = solutions.read_text() if names else ""
        assert [line[5:] for line in text.splitlines() if line.startswith("# %% ")] == names


def test_every_chapter_can_be_read_without_a_kernel() -> None:
    from nbconvert.exporters import HTMLExporter

    exporter = HTMLExporter()
    for path in NOTEBOOKS:
        page, _ = exporter.from_notebook_node(nbformat.read(path, as_version=4))
        notebook = json.loads(path.read_text())
        title = notebook["cells"][0]["source"][0].strip().removeprefix("# ")
        assert title.replace('"', "&quot;") in page, path
        assert page.count("jp-MarkdownCell") >= sum(
            cell["cell_type"] == "markdown" for cell in notebook["cells"]
        )


def test_the_language_is_that_of_the_folder_of_the_notebook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(texts, "BEGAN_IN", "/somewhere")
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert texts.language() == "en"
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert texts.language() == "zh"
    monkeypatch.setattr(texts, "BEGAN_IN", "/somewhere/en")
    assert texts.language() == "en"
    monkeypatch.setenv(texts.NOTEBOOK_VARIABLE, "course/zh/06-control-groups.ipynb")
    assert texts.language() == "zh"


def test_an_exercise_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidOption, match="held, tamed"):
        checking.run("hold", {})
    with pytest.raises(InvalidOption, match="one exercise"):
        course.run(["check"], {})


@pytest.mark.parametrize("given", [None, True, "1", 0, -1, 1 << 40, 2.0])
def test_a_variable_that_names_no_process_is_a_fact_that_does_not_hold(given: object) -> None:
    outcome = checking.run("boxed", {"boxed": given})

    assert not outcome.done
    assert not outcome.facts[-1].holds


def test_progress_is_kept_and_a_folder_that_can_t_be_used_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "done"))
    assert progress.done() == frozenset()
    progress.mark("held")
    (tmp_path / "done/of-another-version").touch()
    assert progress.done() == {"held"}
    assert os.stat(tmp_path / "done").st_mode & 0o777 == 0o700

    (tmp_path / "file").touch()
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "file/below"))
    good = checking.fact(texts.same("a"), 1, texts.same("1"), True, "/proc")
    course.show_outcome(checking.Outcome("held", (good,)))
    assert progress.VARIABLE in capsys.readouterr().out


def test_the_command_copies_the_notebooks_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert main(["course", str(folder)]) == 0
    assert len(list(folder.glob("*/*.ipynb"))) == len(NOTEBOOKS)
    changed = folder / "en" / contents.CHAPTERS[3].file
    changed.write_text("mine")
    capsys.readouterr()

    assert main(["course", str(folder)]) == 0
    assert changed.read_text() == "mine"
    assert "new" not in capsys.readouterr().out.split()

    (tmp_path / "file").touch()
    assert main(["course", str(tmp_path / "file/below")]) == 125
    assert "file/below" in capsys.readouterr().err


def test_columns_of_chinese_stand_below_each_other() -> None:
    rows = [("处理器", "0.25"), ("cpu", "没有"), ("é", "1")]

    table = output.text_table(("名称", "值"), rows)

    assert table.splitlines() == ["名称    值", "处理器  0.25", "cpu     没有", "é       1"]
