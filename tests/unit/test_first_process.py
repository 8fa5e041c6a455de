"""The program of pid 1 does what it is for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox_kernel.linux import first_process


def test_it_can_be_executed_and_neither_read_by_its_name_nor_written() -> None:
    program = first_process.program()

    assert os.fstat(program).st_mode & 0o777 == 0o111
    with pytest.raises(OSError, match=r"not permitted"):
        os.truncate(f"/proc/self/fd/{program}", 0)


def test_it_lives_as_long_as_somebody_holds_the_other_end_and_tells_what_mount_said() -> None:
    """Outside of a pid namespace of its own the mount is refused or covers an empty folder."""
    life, other = os.pipe2(os.O_CLOEXEC)
    result, end = os.pipe2(os.O_CLOEXEC)
    program = os.dup(first_process.program())
    moves = [
        (os.POSIX_SPAWN_DUP2, life, 100),
        (os.POSIX_SPAWN_DUP2, end, 101),
        (os.POSIX_SPAWN_DUP2, 100, first_process.LIFE),
        (os.POSIX_SPAWN_DUP2, 101, first_process.RESULT),
    ]
    # Without the right to mount, so that nothing is mounted here.
    argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", f"/proc/self/fd/{program}"]
    os.set_inheritable(program, True)
    pid = os.posix_spawnp("setpriv", argv, {"PATH": os.environ["PATH"]}, file_actions=moves)
    os.close(end)

    assert int.from_bytes(os.read(result, 8), "little", signed=True) == -1  # EPERM
    assert Path(f"/proc/{pid}/comm").read_text() == "sandbox-init\n"
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.close(life)
    os.close(other)
    assert os.waitpid(pid, 0)[1] == 0
    for descriptor in (result, program):
        os.close(descriptor)
