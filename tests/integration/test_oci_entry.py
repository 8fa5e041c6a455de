"""The quick entry of the OCI command line: what it keeps, and when it does not believe that."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox_kernel

EVIL = 77
# Run by the system's Python, whose byte code it is: what is kept stays sound, but its first module
# ends the command with a status of its own.
POISON = f"""
import marshal, sys
sys.path.insert(0, sys.argv[1])
from sandbox_kernel.oci import entry
head, path = len(entry._head(b"")), sys.argv[2]
with open(path, "rb") as file:
    kept = marshal.loads(file.read()[head:])
kept[0] = (*kept[0][:-1], compile("import os; os._exit({EVIL})", "evil", "exec"))
body = marshal.dumps(kept)
with open(path, "wb") as file:
    file.write(entry._head(body) + body)
"""


class Installed:
    """A copy of the package, whose quick entry ran once."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "sandbox_kernel"
        shutil.copytree(
            Path(sandbox_kernel.__file__).parent, self.package,
            ignore=shutil.ignore_patterns("__pycache__", "notebooks"),
        )  # fmt: skip
        self.output()
        (self.kept,) = self.package.glob("oci/__pycache__/*.modules")

    def call(self) -> subprocess.CompletedProcess[str]:
        argv = [str(self.package / "oci/quick-entry"), "--version"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def output(self) -> str:
        done = self.call()
        assert done.returncode == 0, done.stderr
        return done.stdout

    def poison(self) -> None:
        argv = ["/usr/bin/python3", "-IS", "-c", POISON, self.package.parent, self.kept]
        subprocess.run(argv, check=True)
        assert self.call().returncode == EVIL  # so a test that gets no such status has seen it not


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def test_what_is_kept_is_used_until_a_source_changes(installed: Installed) -> None:
    made = installed.kept.stat().st_ino
    assert "runtime version" in installed.output()
    assert installed.kept.stat().st_ino == made

    source = installed.package / "oci/main.py"
    source.write_text(source.read_text().replace('-runtime"', '-changed"', 1))
    assert "sandbox-kernel-changed version" in installed.output()
    assert installed.kept.stat().st_ino != made
    assert "sandbox-kernel-changed version" in installed.output()

    kept = installed.kept.read_bytes()
    source.unlink()
    shutil.copy2(Path(sandbox_kernel.__file__).with_name("oci") / "main.py", source)
    assert "runtime version" in installed.output()

    installed.kept.write_bytes(kept)  # of the sources that are no more
    assert "runtime version" in installed.output()


def test_a_copy_has_nothing_of_its_original(installed: Installed, tmp_path: Path) -> None:
    shutil.copytree(installed.package, tmp_path / "copy/sandbox_kernel")
    source = tmp_path / "copy/sandbox_kernel/oci/main.py"
    source.write_text(source.read_text().replace('-runtime"', '-changed-in-a-copy"', 1))
    argv = [str(source.with_name("quick-entry")), "--version"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "sandbox-kernel-changed-in-a-copy version" in said
    assert "runtime version" in installed.output()


def _give_away(kept: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(kept, 54321, -1)


def _spoil(kept: Path) -> None:
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)


def _make_old(kept: Path) -> None:
    data = bytearray(kept.read_bytes())
    data[0] ^= 1
    kept.write_bytes(data)


def _link(kept: Path) -> None:
    kept.rename(kept.with_suffix(".elsewhere"))
    kept.symlink_to(kept.with_suffix(".elsewhere"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda kept: kept.chmod(0o666), id="others may write it"),
        pytest.param(_give_away, id="of somebody else"),
        pytest.param(_spoil, id="damaged"),
        pytest.param(_make_old, id="of another Python"),
        pytest.param(lambda kept: os.truncate(kept, kept.stat().st_size // 2), id="cut off"),
        pytest.param(lambda kept: os.truncate(kept, 3), id="cut off at once"),
        pytest.param(_link, id="a link"),
    ],
)
def test_what_was_tampered_with_is_not_taken(
    installed: Installed, change: Callable[[Path], None]
) -> None:
    installed.poison()
    change(installed.kept)
    assert "runtime version" in installed.output()
    assert "runtime version" in installed.output()  # with what was made anew


def test_without_a_place_to_keep_anything_it_works_too(installed: Installed) -> None:
    installed.kept.unlink()
    installed.kept.mkdir()  # even root can't write there
    assert "runtime version" in installed.output()
    assert installed.kept.is_dir()
    left = [path.name for path in installed.kept.parent.iterdir() if "modules." in path.name]
    assert left == []
