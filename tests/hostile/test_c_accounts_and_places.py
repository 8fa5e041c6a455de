"""Corpus entries C 54 and 55: account files that are traps; links at the places of the kernel.

Each image is stored, unpacked and run; what the host has is looked at by the fixture of all tests.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from layer_archives import archive, directory, extended, member, symlink
from made_images import program, put

from sandbox_kernel import policy
from sandbox_kernel.container import Container, Exit, ProcessSpec
from sandbox_kernel.errors import StepFailed
from sandbox_kernel.image.store import Store

pytestmark = pytest.mark.everybody
SECONDS = 20
GOOD = b"root:x:0:0::/:/bin/sh\nsomebody:x:7:8::/:/bin/sh\n"


def sparse(name: bytes, size: int) -> bytes:
    """A file of this size with nothing in it, in half a kilobyte."""
    head = extended(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", name),
        (b"GNU.sparse.realsize", b"%d" % size),
    )
    return head + member(b"x", b"0\n".ljust(512, b"\0"))


def image(store: Store, *members: bytes) -> None:
    layer = archive(
        directory(b"bin"), member(b"bin/says", program(), mode=0o755), directory(b"etc"), *members
    )
    put(store, "trap:1", [layer], cmd=["/bin/says"], env=["PATH=/bin"])


def run(user: str) -> Exit:
    """How a program of the image ended, or was not started, as this user."""
    plan = policy.plan("command line", image="trap:1", user=user, timeout="10s")
    with Container.create(plan, process=ProcessSpec(argv=("/bin/says",))) as made:
        assert made.process is not None
        return made.process.wait(SECONDS)


def traps(outside: Path) -> dict[str, bytes]:
    return {
        "a pipe": member(b"etc/passwd", kind=b"6"),
        "a folder": directory(b"etc/passwd"),
        "a link to the host": symlink(b"etc/passwd", str(outside).encode()),
        "a link out": symlink(b"etc/passwd", b"../.." + str(outside).encode()),
        "a link to a device": symlink(b"etc/passwd", b"/dev/zero"),
        "10 GiB": sparse(b"etc/passwd", 10 << 30),
        "a million lines": member(b"etc/passwd", b"x:x:1:1::/:\n" * 1_000_000),
    }


@pytest.mark.cve("CVE-2024-9676")
def test_c54_an_account_file_that_is_a_trap_finds_nobody(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "passwd"
    outside.write_bytes(GOOD)
    for trap, made in traps(outside).items():
        image(store, made)
        started = time.monotonic()
        ended = run("somebody")
        assert ended.reason != "exited", trap
        assert "somebody" in ended.message
        assert time.monotonic() - started < SECONDS
    assert run("7:8").status == 0, "a number needs no file"
    image(store, member(b"etc/passwd", GOOD))
    assert run("somebody").status == 0


@pytest.mark.cve("CVE-2019-19921", "CVE-2023-27561", "CVE-2023-28642")
def test_c55_a_link_or_file_at_a_place_of_the_kernel_is_refused(store: Store) -> None:
    """CVE-2019-19921, CVE-2023-28642."""
    for made in (symlink(b"proc", b"/etc"), symlink(b"sys", b"../../etc"), member(b"dev", b"x")):
        image(store, made)
        with pytest.raises(StepFailed, match=r"/proc|/sys|/dev"):
            run("0")
