"""What layers hide is hidden in a container too: whiteouts and opaque directories in our overlay.

As root the layers are mounted with mapped ids, as an ordinary user as they are.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from layer_archives import archive, directory, hard_link, member, symlink
from made_images import put

from sandbox_kernel import policy
from sandbox_kernel.container import Container, copying
from sandbox_kernel.errors import StepFailed
from sandbox_kernel.image.store import Store

LAYERS = (
    archive(
        directory(b"a"),
        member(b"a/1", b"lower"),
        member(b"a/2", b"lower"),
        directory(b"b"),
        member(b"b/1", b"lower"),
        directory(b"b/deep"),
        member(b"b/deep/1", b"lower"),
        directory(b"c"),
        member(b"c/1", b"lower"),
        member(b"d", b"lower"),
        symlink(b"link", b"a"),
        directory(b"e"),
        member(b"e/1", b"lower"),
        directory(b"spool", 0o1777),
        member(b"su", b"lower", mode=0o4755, uid=7, gid=8),
    ),
    archive(
        member(b"a/.wh.1"),
        member(b"b/.wh..wh..opq"),
        member(b"b/2", b"upper"),
        member(b".wh.c"),
        directory(b"d"),
        member(b"d/1", b"upper"),
        member(b"link/3", b"upper"),
        member(b".wh.e"),
        member(b"spool/x", b"upper"),
        hard_link(b"su2", b"su"),
    ),
    archive(directory(b"e"), member(b"e/2", b"top"), member(b"b/.wh.2"), member(b"b/3", b"top")),
)
SEEN = {
    "a": None,
    "a/2": b"lower",
    "a/3": b"upper",
    "b": None,
    "b/3": b"top",
    "d": None,
    "d/1": b"upper",
    "e": None,
    "e/2": b"top",
    "link": "a",
    "spool": None,
    "spool/x": b"upper",
    "su": b"lower",
    "su2": b"lower",
}


@pytest.mark.everybody
def test_a_container_sees_what_its_layers_leave_to_be_seen(store: Store, tmp_path: Path) -> None:
    put(store, "layers:1", LAYERS)
    out = tmp_path / "out"
    out.mkdir()
    plan = policy.plan("command line", image="layers:1")
    with Container.create(plan) as made:
        for name in sorted({path.split("/")[0] for path in SEEN}):
            copying.copy_out(made, f"/{name}", str(out), most_bytes=1 << 20, most_files=100)
        with pytest.raises(StepFailed, match="No such file"):
            copying.copy_out(made, "/c", str(out), most_bytes=1 << 20, most_files=100)

    found: dict[str, object] = {}
    for above, folders, files in os.walk(out):
        for name in (*folders, *files):
            path = Path(above, name)
            mode = path.lstat().st_mode
            content: object = None
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode):
                content = path.read_bytes()
            found[str(path.relative_to(out))] = content
    assert found == SEEN
    assert stat.S_IMODE((out / "spool").stat().st_mode) & 0o777 == 0o777
