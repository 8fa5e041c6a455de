"""The course: each chapter runs, right solutions pass its checks, wrong ones and none do not."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kernels import Kernel, Starting

from sandbox_kernel.course import contents, copying, progress
from sandbox_kernel.course.contents import Chapter

SOLUTIONS = Path(__file__).resolve().parents[1] / "course"
PLAIN = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
CHAPTERS = [chapter for chapter in contents.CHAPTERS if chapter.exercises]
SECONDS = 60
"""In which a chapter has to run, on a machine that does nothing else."""
SHOWN = {
    "01": ("ModuleNotFoundError: No module named 'greeting'",),
    "03": ("[0, 1, 1, 0, 0, 1, 0, 0]", "[6561]", "guest: "),
    "04": ("virtual machine, empty", "TOKEN=swordfish"),
    "05": (
        "user 0 on box",
        "I am 1 and my parent is 0",
        "('lo', 'up')",
        "sees ['1']",
        "sandbox-namespaces",
    ),
    "06": ("OutOfMemory", "100%"),
    "07": ("colour = red", "seen: False", "kept: hunter2", "sandbox-layers", "COPY --chmod=600"),
    "09": ("NotAllowed", "sandbox-capabilities", "sandbox-system-calls", "EPERM     capabilities"),
    "10": ("OutOfMemory", "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81, 100, 121]"),
    "08": (
        "['lo']",
        "hello from the container web",
        "<summary>connections</summary>",
        "<svg",
        "9.9.9.9:53: its network has no way out",
        "Name or service not known",
    ),
}
"""What has to stand in the outputs of a chapter."""
LEAVE = """
%reset -f
from contextlib import suppress
from sandbox_kernel import errors
from sandbox_kernel.container import finding
for each in finding.list_all():
    with suppress(errors.NoSuchContainer):  # the reset has let go of it, and it ends by itself
        finding.find(each.id).remove()
del errors, finding, suppress
"""


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebooks as a learner gets them, and nothing done yet."""
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "done"))
    copying.copy(str(tmp_path / "course"))
    return tmp_path / "course"


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Starting(PLAIN).ready() as started:
        yield started


@pytest.mark.timeout(600)
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.everybody
def test_every_chapter_runs_and_its_checks_tell_right_from_wrong(
    course: Path, kernel: Kernel, language: str, record_property: Any
) -> None:
    # Each page runs once, and each chapter as both kinds of users: who is root has those in the
    # language that the other one has not.
    odd = (language == "en") == (os.geteuid() == 0)
    chapters = [each for each in CHAPTERS if int(each.number) % 2 == odd]

    for chapter in chapters:
        begin = time.monotonic()
        run_chapter(kernel, course / language, chapter)
        taken = time.monotonic() - begin
        record_property(f"chapter {chapter.number}", f"{taken:.1f} s")
        print(f"{language} {chapter.number}: {taken:.1f} s")
        others = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert taken < SECONDS * others, chapter

    done = {each.name for chapter in chapters for each in chapter.exercises}
    assert progress.done() == done
    _, told = said(kernel, f"import os; os.chdir({str(course / language)!r})\n%sandbox course")
    assert f"{len(done)} of" in told or f"完成了 {len(done)} 个" in told


def run_chapter(kernel: Kernel, folder: Path, chapter: Chapter) -> None:
    """All cells in order; in place of an exercise nothing, what is wrong, and what is right."""
    notebook = json.loads((folder / chapter.file).read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["metadata"]["exercise"] for cell in code if "exercise" in cell["metadata"]] == [
        exercise.name for exercise in chapter.exercises
    ]
    everything = ""
    said(kernel, f"import os; os.chdir({str(folder)!r})")
    for cell in code:
        source = "".join(cell["source"])
        if exercise := cell["metadata"].get("exercise"):
            for kind in ("none", "wrong", "right"):
                tried = source if kind == "none" else solution(chapter, exercise, kind)
                error, told = said(kernel, tried)
                assert not error, (chapter.file, exercise, kind, error)
                _, told = said(kernel, f"%sandbox check {exercise}")
                mark = told.strip().splitlines()[-1][:1]
                assert mark == ("✓" if kind == "right" else "✗"), (exercise, kind, told)
            continue
        error, told = said(kernel, source)
        everything += error + told
        raises = "raises-exception" in cell["metadata"].get("tags", ())
        assert bool(error) <= raises, (chapter.file, source, error, told)
    assert "IT WORKED" not in everything
    if "sandbox-view" in everything:
        assert {"en": 'lang="en"', "zh": 'lang="zh-CN"'}[folder.name] in everything
    assert [text for text in SHOWN.get(chapter.number, ()) if text not in everything] == []
    error, _ = said(kernel, LEAVE)
    assert not error, (chapter.file, error)


def solution(chapter: Chapter, exercise: str, kind: str) -> str:
    """The cell that solves an exercise, or does not."""
    text = (SOLUTIONS / kind / f"{chapter.number}.ipy").read_text()
    parts = re.split(r"^# %% (\w+)\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[exercise]


def said(kernel: Kernel, source: str) -> tuple[str, str]:
    """The error of a cell, and all that it printed and showed; what views of others show first."""
    reply, outputs = kernel.run(source)
    texts = []
    for message in sorted(outputs, key=lambda one: one["msg_type"] != "update_display_data"):
        content = message["content"]
        data = content.get("data", {})
        texts += [content.get("text", ""), data.get("text/html", ""), data.get("text/plain", "")]
    error = reply["content"]
    why = f"{error['ename']}: {error['evalue']}" if error["status"] == "error" else ""
    return why, "".join(texts)
