"""Who lives, by the locks in the runtime folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sandbox_kernel.runtime import state


def test_a_launcher_lives_from_its_folder_to_its_end(tmp_path: Path) -> None:
    runtime = str(tmp_path)
    assert not state.is_live(runtime, "0123456789ab")
    folder = state.LauncherFolder(runtime, "0123456789ab")
    assert state.is_live(runtime, "0123456789ab")
    assert state.live_launchers(runtime) == ["0123456789ab"]
    assert state.sweep(runtime) == []
    folder.remove()
    assert not state.is_live(runtime, "0123456789ab")


@pytest.mark.fault(9)
def test_what_a_killed_launcher_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    runtime = str(tmp_path)
    living = state.LauncherFolder(runtime, "aaaaaaaaaaaa")
    pid = os.fork()
    if pid == 0:
        state.LauncherFolder(runtime, "bbbbbbbbbbbb")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)

    assert state.sweep(runtime) == ["bbbbbbbbbbbb"]
    assert os.listdir(tmp_path / "launchers") == ["aaaaaaaaaaaa"]
    living.remove()


def test_looking_who_lives_keeps_nobody_from_starting(tmp_path: Path) -> None:
    runtime = str(tmp_path)
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            state.live_launchers(runtime)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for number in range(300):
            state.LauncherFolder(runtime, f"{number:012x}").remove()
    finally:
        done.set()
        looking.join()


def test_an_upgraded_package_has_a_holder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = str(tmp_path)
    living = state.LauncherFolder(runtime, "aaaaaaaaaaaa")
    lock = state.become_holder(runtime, "aaaaaaaaaaaa")
    assert lock is not None
    assert state.holder(runtime) == "aaaaaaaaaaaa"
    assert state.become_holder(runtime, "bbbbbbbbbbbb") is None

    with monkeypatch.context() as upgraded:
        upgraded.setattr(state, "_PACKAGE", "00000000")
        assert state.holder(runtime) is None
        other = state.become_holder(runtime, "aaaaaaaaaaaa")
        assert other is not None
        state.stop_being_holder(runtime, "aaaaaaaaaaaa", other)
    assert state.holder(runtime) == "aaaaaaaaaaaa"

    # whoever is killed leaves a name that the next start removes, and no other one
    upgraded_name = tmp_path / "holder-00000000"
    upgraded_name.write_text("cccccccccccc")
    state.sweep(runtime)
    assert not upgraded_name.exists()
    assert state.holder(runtime) == "aaaaaaaaaaaa"
    state.stop_being_holder(runtime, "aaaaaaaaaaaa", lock)
    living.remove()


@pytest.mark.fault(17)
def test_a_holder_puts_its_name_right_and_knows_when_its_file_is_gone(tmp_path: Path) -> None:
    runtime = str(tmp_path)
    lock = state.become_holder(runtime, "aaaaaaaaaaaa")
    assert lock is not None
    file = Path(state.holder_file(runtime))
    file.write_bytes(b"aabaaaaaaaaa and more")
    assert state.stays_holder(runtime, "aaaaaaaaaaaa", lock)
    assert file.read_text() == "aaaaaaaaaaaa"
    file.unlink()
    other = state.become_holder(runtime, "bbbbbbbbbbbb")
    assert other is not None
    assert not state.stays_holder(runtime, "aaaaaaaaaaaa", lock)
    state.stop_being_holder(runtime, "aaaaaaaaaaaa", lock)
    assert file.read_text() == "bbbbbbbbbbbb"
    state.stop_being_holder(runtime, "bbbbbbbbbbbb", other)
    assert not file.exists()
