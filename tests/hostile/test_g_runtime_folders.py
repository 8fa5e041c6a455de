"""Corpus entry 87, of an ordinary user: runtime folders that somebody else prepared for him."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.everybody


@pytest.mark.root
@pytest.mark.parametrize("kind", ["missing", "foreign", "open", "link", "relative", "file"])
def test_g87_a_runtime_folder_that_is_not_ours_is_not_used(
    ordinary_user, tmp_path: Path, kind: str
) -> None:
    """An ordinary user whose XDG_RUNTIME_DIR somebody else prepared."""
    place = Path(f"/var/tmp/sandbox-kernel-g87-{os.getpid()}")
    place.mkdir()
    try:
        given = place / "given"
        if kind in ("foreign", "open", "link"):
            given.mkdir(mode=0o777 if kind == "open" else 0o755)
        if kind == "open":
            os.chown(given, ordinary_user.uid, -1)
            given.chmod(0o777)
        if kind == "link":
            real = place / "real"
            given.rename(real)
            os.chown(real, ordinary_user.uid, -1)
            real.chmod(0o700)
            given.symlink_to(real)
        if kind == "file":
            given.write_text("")
        code = "from sandbox_kernel.runtime import state; print(state.runtime_folder())"
        name = "given" if kind == "relative" else str(given)
        done = ordinary_user.run(["python", "-c", code], env={"XDG_RUNTIME_DIR": name})

        used = Path(done.stdout.strip())
        assert used == Path(f"/tmp/sandbox-kernel-{ordinary_user.uid}"), done
        assert used.stat().st_uid == ordinary_user.uid
        assert stat.S_IMODE(used.stat().st_mode) == 0o700
        assert not (given / "sandbox-kernel").exists()
    finally:
        subprocess.run(["/bin/rm", "-rf", str(place)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["foreign", "link", "open", "file"])
def test_g87_a_prepared_folder_in_tmp_is_refused(ordinary_user, tmp_path: Path, kind: str) -> None:
    """Somebody made /tmp/sandbox-kernel-<uid> before the user did."""
    folder = Path(f"/tmp/sandbox-kernel-{ordinary_user.uid}")
    aside = folder.with_name(f"{folder.name}.aside-{os.getpid()}")
    if folder.exists():
        folder.rename(aside)
    try:
        if kind == "file":
            folder.write_text("")
        elif kind == "link":
            target = tmp_path / "target"
            target.mkdir(mode=0o700)
            os.chown(target, ordinary_user.uid, -1)
            folder.symlink_to(target)
        else:
            folder.mkdir(mode=0o700)
            if kind == "open":
                os.chown(folder, ordinary_user.uid, -1)
                folder.chmod(0o770)
        argv = [ordinary_user.python, "-m", "sandbox_kernel.cli.main", "run", "host", "true"]
        done = ordinary_user.run(argv)

        assert done.returncode == 125
        assert done.stderr.count("\n") == 1
        assert f"`{folder}`" in done.stderr
        assert "remove it" in done.stderr
    finally:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)  # with what was made in it, if it was used all the same
        if aside.exists():
            aside.rename(folder)
