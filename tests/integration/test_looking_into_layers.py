"""Promises about looking into images: which layer brings what, what differs, and `commit`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from commands import command, output_of
from layer_archives import archive, directory, hard_link, member, symlink
from made_images import put

from sandbox_kernel import policy
from sandbox_kernel.container import Container, ProcessSpec, committing
from sandbox_kernel.container.changes import changes as changes_of
from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.store import Store

everybody = pytest.mark.everybody
KIB = bytes(1024)

CHANGES = r"""
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
int main(int count, char **words) {
    for (int i = 1; i < count; i++) {
        char *word = words[i] + 1;
        int failed = 0;
        if (*words[i] == '-') failed = unlink(word);
        if (*words[i] == '~') failed = rmdir(word);
        if (*words[i] == '/') failed = mkdir(word, 0755);
        if (*words[i] == '=') { FILE *file = fopen(word, "w"); failed = !file || fputs(word, file) < 0 || fclose(file); }
        if (*words[i] == '@') failed = symlink("gone", word);
        if (*words[i] == '!') failed = chmod(word, 0640);
        if (failed) { perror(words[i]); return 1; }
    }
    return 0;
}
"""  # noqa: E501


@cache
def changes() -> bytes:
    """A program without libraries that does what its words say."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "changes")
        words = ["gcc", "-xc", "-", "-static", "-Os", "-s", "-o", out]
        subprocess.run(words, input=CHANGES.encode(), check=True)
        return out.read_bytes()


def base() -> bytes:
    return archive(
        directory(b"bin"),
        member(b"bin/changes", changes(), mode=0o755),
        directory(b"etc"),
        member(b"etc/note", KIB),
        member(b"etc/kept", KIB),
        directory(b"d"),
        member(b"d/1", KIB),
        member(b"d/2", KIB),
        directory(b"again"),
        member(b"again/lower", KIB),
    )


UPPER = archive(
    directory(b"etc"),
    member(b"etc/note", KIB * 2),
    member(b"etc/.wh.kept"),
    directory(b"new"),
    member(b"new/a", KIB * 3),
    hard_link(b"new/b", b"new/a"),
    symlink(b"new/l", b"a"),
)


def test_tree_tells_which_layer_brings_what_and_what_is_wasted(store: Store) -> None:
    put(store, "two:1", [base(), UPPER])
    told = json.loads(output_of("tree", "--format", "json", "two:1"))

    size = len(changes())
    lower, upper = told["layers"]
    assert (lower["files"], lower["bytes"], lower["wasted"]) == (6, size + 5 * 1024, 2 * 1024)
    assert (upper["files"], upper["bytes"]) == (3, 5 * 1024)
    assert (upper["added"], upper["changed"], upper["removed"]) == (4, 1, 1)
    assert upper["folders"]["new"]["bytes"] == 3 * 1024
    assert told["wasted"] == 2 * 1024
    assert told["bytes"] == size + 8 * 1024
    assert {one["path"] for one in told["wasted_paths"]} == {"/etc/note", "/etc/kept"}
    shown = output_of("tree", "two:1")
    assert "created by: made by hand 2" in shown
    assert "1 x /etc/kept" in shown
    told = json.loads(output_of("tree", "--files", "--format", "json", "two:1"))
    assert {(name["kind"], name["path"]) for name in told["layers"][1]["names"]} == {
        ("C", "/etc/note"),
        ("D", "/etc/kept"),
        ("A", "/new"),
        ("A", "/new/a"),
        ("A", "/new/b"),
        ("A", "/new/l"),
    }
    assert "D          -  /etc/kept" in output_of("tree", "--files", "two:1")


@everybody
def test_diff_of_two_images_says_what_is_different(store: Store) -> None:
    put(store, "one:1", [base()])
    put(store, "two:1", [base(), UPPER])
    told = json.loads(output_of("diff", "--format", "json", "one:1", "two:1"))

    assert {(each["kind"], each["path"], *each["what"]) for each in told} == {
        ("C", "/etc/note", "content", "size"),
        ("D", "/etc/kept"),
        ("A", "/new"),
        ("A", "/new/a"),
        ("A", "/new/b"),
        ("A", "/new/l"),
    }
    assert output_of("diff", "one:1", "one:1") == ""


@contextmanager
def changed(store: Store) -> Iterator[Container]:
    """A container of the image `one:1` in which something was changed."""
    put(store, "one:1", [base()], cmd=["/bin/changes"], env=["PATH=/bin"])
    words = [
        "-/d/1", "=/etc/note", "//new", "=/new/f", "@/new/l", "!/new/f", "-/again/lower",
        "~/again", "//again", "=/again/upper",
    ]  # fmt: skip
    with Container.create(policy.plan("command line", image="one:1")) as made:
        process = made.run(ProcessSpec(argv=("/bin/changes", *words)))
        assert process.wait(30).status == 0
        process.close()
        yield made


CHANGED = {
    ("D", "/d/1"),
    ("C", "/etc/note", "content", "size"),
    ("A", "/new"),
    ("A", "/new/f"),
    ("A", "/new/l"),
    ("D", "/again/lower"),
    ("A", "/again/upper"),
}


@everybody
def test_commit_keeps_what_changed_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    with changed(store) as made:
        first = committing.commit(store, made, "kept:1", author="somebody", comment="why not")
        second = committing.commit(store, made, None, author="somebody", comment="why not")
        same = json.loads(output_of("diff", "--format", "json", made.id, "kept:1"))
        listed = json.loads(output_of("diff", "--format", "json", "one:1", made.id))

    told = json.loads(output_of("diff", "--format", "json", "one:1", "kept:1"))
    assert {(each["kind"], each["path"], *each["what"]) for each in told} == CHANGED
    assert {(each["kind"], each["path"], *each["what"]) for each in listed} == CHANGED
    assert same == []
    assert first.digest == second.digest, "the same container, the same bytes"
    assert first.config.history is not None
    assert first.config.history[-1].comment == "why not"
    assert first.config.execution()["Cmd"] == ["/bin/changes"]
    with Container.create(policy.plan("command line", image="kept:1")) as made:
        process = made.run(ProcessSpec(argv=("/bin/changes", "-/new/f", "-/again/upper")))
        assert process.wait(30).status == 0
        process.close()
        gone = {change.path for change in changes_of(made) if change.kind == "D"}
    assert gone == {"/new/f", "/again/upper"}


def test_other_programs_read_what_commit_made(store: Store, tmp_path: Path) -> None:
    with changed(store) as made:
        output_of("commit", "--message", "by hand", made.id, "kept:1")
    kept = store.find("kept:1")
    layout = f"{store.root}:{kept.names[0]}"
    subprocess.run(["umoci", "raw", "unpack", "--image", layout, tmp_path / "tree"], check=True)

    tree = tmp_path / "tree"
    assert sorted(path.name for path in tree.iterdir()) == ["again", "bin", "d", "etc", "new"]
    assert [path.name for path in (tree / "d").iterdir()] == ["2"]
    assert [path.name for path in (tree / "again").iterdir()] == ["upper"]
    status = (tree / "new/f").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o640)


def test_what_has_no_layers_is_said_so(store: Store) -> None:
    for words in (["tree", "host"], ["diff", "host", "scratch"]):
        done = command(*words)
        assert done.returncode == 125
        assert "no layers" in done.stderr
    made = Container.create(policy.plan("command line", image="host"))
    with made, pytest.raises(ImageError, match="files of this machine"):
        committing.commit(store, made, "kept:1")
