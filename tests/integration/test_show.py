"""`sandbox-kernel show`: the views of notebooks as text, of a container that lives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_kernel import policy, settings
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.observe import namespaces

pytestmark = pytest.mark.everybody

NAME = "looked-at"
HOSTILE = "\x1b[31m\u202e<b>"
WRITES = f"open('/tmp/results.csv', 'w').write('x' * 4096); open('/tmp/{HOSTILE}', 'w').close()"


@pytest.fixture(scope="module")
def held() -> Iterator[Container]:
    """A container with two files in it."""
    with Container.create(policy.plan(settings.PROGRAM, name=NAME)) as held:
        process = held.run(ProcessSpec(argv=("python3", "-c", WRITES)))
        process.wait(60)
        process.close()
        yield held


def shown(*words: str) -> str:
    ran = subprocess.run(
        [Path(sys.executable).with_name("sandbox-kernel"), "show", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr
    return ran.stdout


def test_each_view_is_true_as_text(held: Container) -> None:
    text = shown("limits,namespaces,layers", NAME, "--language", "en")
    assert f"Limits, {NAME}: live" in text
    assert "/tmp/results.csv" in text
    assert "4 KiB" in text
    assert "\\x1b[31m\\u202e<b>" in text
    assert "\x1b" not in text
    known = namespaces.inodes(held.pid)
    for inode in known.values():
        assert str(inode) in text
    if len(known) < len(namespaces.KINDS):
        assert "not visible to you" in text
    assert "1 processes" in text or "2 processes" in text


@pytest.mark.whoever
def test_all_containers_are_listed_in_both_languages(held: Container) -> None:
    assert NAME in shown("containers", "--language", "en")
    text = shown("containers", "--language", "zh")
    assert "容器" in text
    assert NAME in text


@pytest.mark.whoever
def test_what_is_no_view_or_no_container_is_refused_in_one_line() -> None:
    for words in (["weather", NAME], ["limits"], ["limits", "nobody"]):
        ran = subprocess.run(
            [Path(sys.executable).with_name("sandbox-kernel"), "show", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 125
        assert len(ran.stderr.splitlines()) == 1
