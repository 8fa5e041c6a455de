"""Files kept and put back: what times can't tell, holes, links, odd names, and the bound."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from sandbox_kernel.runtime.keeping import Keeper, TooMuch

MOST = 1 << 30


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper((str(tmp_path),))


def test_what_is_changed_in_the_tick_in_which_it_was_kept_is_seen(
    keeper: Keeper, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    for number in range(50):  # fast enough that most pairs fall into one tick
        file.write_bytes(b"%04d" % number)
        os.utime(file, (1, 1))
        keeper.keep(number, MOST, thorough=False)

    for number in (0, 17, 49, 3):
        keeper.restore(number)
        assert file.read_bytes() == b"%04d" % number


def test_holes_stay_holes_and_cost_nothing(keeper: Keeper, tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as out:
        out.truncate(1 << 30)
        out.seek(1 << 29)
        out.write(b"middle")
    kept = keeper.keep(1, 1 << 20, thorough=False)
    file.unlink()

    keeper.restore(1)

    assert kept["bytes"] < 1 << 20
    assert file.stat().st_size == 1 << 30
    assert file.stat().st_blocks * 512 < 1 << 20
    with file.open("rb") as read:
        read.seek(1 << 29)
        assert read.read(6) == b"middle"


def test_what_did_not_change_is_kept_once(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 4096)
    first = keeper.keep(1, MOST, thorough=False)["bytes"]
    (tmp_path / "small").write_bytes(b"x")

    second = keeper.keep(2, MOST, thorough=True)["bytes"]

    assert (first, second) == (1 << 20, (1 << 20) + 1)
    assert keeper.drop(1)["bytes"] == second
    assert keeper.drop(2)["bytes"] == 0


def test_above_the_bound_nothing_is_kept_and_what_was_stays(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    keeper.keep(1, MOST, thorough=False)
    (tmp_path / "file").write_bytes(b"n" * (2 << 20))

    with pytest.raises(TooMuch):
        keeper.keep(2, 1 << 20, thorough=False)

    keeper.restore(1)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_every_kind_of_entry_and_odd_names_come_back(keeper: Keeper, tmp_path: Path) -> None:
    odd = os.fsencode(str(tmp_path)) + b"/no \xff text\n"
    with open(odd, "wb") as file:
        file.write(b"odd")
    (tmp_path / "folder/below").mkdir(parents=True)
    (tmp_path / "folder/below/file").write_text("deep")
    os.chmod(tmp_path / "folder/below", 0o500)
    os.utime(tmp_path / "folder/below", (5, 5))
    os.mkfifo(tmp_path / "pipe", 0o640)
    os.symlink("nowhere", tmp_path / "link")
    os.link(tmp_path / "folder/below/file", tmp_path / "same")
    keeper.keep(1, MOST, thorough=False)
    os.chmod(tmp_path / "folder/below", 0o700)
    for path in ("folder/below/file", "pipe", "link", "same"):
        (tmp_path / path).unlink()
    os.unlink(odd)
    (tmp_path / "folder/below").rmdir()
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").write_text("a file now")

    said = keeper.restore(1)

    assert said["problems"] == []
    with open(odd, "rb") as file:
        assert file.read() == b"odd"
    assert (tmp_path / "same").samefile(tmp_path / "folder/below/file")
    assert (tmp_path / "same").read_text() == "deep"
    assert os.readlink(tmp_path / "link") == "nowhere"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "folder/below").stat().st_mode) == 0o500
    assert (tmp_path / "folder/below").stat().st_mtime == 5


def test_a_file_that_somebody_has_open_is_put_back_in_place(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with (tmp_path / "file").open() as held:
        keeper.keep(1, MOST, thorough=False)
        (tmp_path / "file").write_text("after that")

        keeper.restore(1)

        assert held.read() == "before"


def test_links_lead_nowhere(keeper: Keeper, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("kept")
    keeper.keep(1, MOST, thorough=False)
    (tmp_path / "folder/file").unlink()
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").symlink_to(outside)

    keeper.restore(1)

    assert (outside / "file").read_text() == "mine"
    assert not (tmp_path / "folder").is_symlink()
    assert (tmp_path / "folder/file").read_text() == "kept"


PROGRAM = """
import os, sys
from sandbox_kernel.runtime.keeping import Keeper
os.chdir(sys.argv[1])
os.mkdir("closed"); open("closed/below", "w").write("below"); os.chmod("closed", 0)
open("secret", "w").write("secret"); os.chmod("secret", 0)
keeper = Keeper((os.getcwd(),))
keeper.keep(1, 1 << 20, thorough=False)
print(oct(os.stat("closed").st_mode & 0o777), oct(os.stat("secret").st_mode & 0o777))
os.chmod("closed", 0o700); os.chmod("secret", 0o600)
open("secret", "w").write("other")
if sys.argv[2] == "gone": os.remove("closed/below"); os.rmdir("closed")
print(keeper.restore(1)["problems"])
print(oct(os.stat("closed").st_mode & 0o777), oct(os.stat("secret").st_mode & 0o777))
os.chmod("closed", 0o700); os.chmod("secret", 0o600)
print(open("closed/below").read(), open("secret").read())
"""


@pytest.mark.parametrize("what", ["there", "gone"])
def test_what_its_owner_may_not_read_is_kept_as_well(tmp_path: Path, what: str) -> None:
    os.chmod(tmp_path, 0o777)
    for path in list(tmp_path.parents)[:3]:
        os.chmod(path, path.stat().st_mode | 0o055)
    # As somebody without any capability, as in a container: root would read everything.
    user = ["/usr/bin/setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    words = [*(user if os.geteuid() == 0 else ()), "/usr/bin/python3", "-c", PROGRAM]

    done = subprocess.run(
        [*words, str(tmp_path), what], capture_output=True, text=True, check=False, env=_path()
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["0o0 0o0", "[]", "0o0 0o0", "below secret"]


def _path() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
