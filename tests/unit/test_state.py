"""Who lives, by the locks in the runtime folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

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
