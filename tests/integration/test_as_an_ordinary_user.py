"""What is marked `everybody`, once more: by an ordinary user with control groups of his own."""

from __future__ import annotations

import os

import lanes
import pytest
from ordinary_user import OrdinaryUser

FOLDERS = ("tests/integration", "tests/hostile")


@pytest.mark.timeout(1500)
def test_what_is_for_everybody_works_for_an_ordinary_user(delegated_user: OrdinaryUser) -> None:
    cache = delegated_user.place / "cache-of-pytest"
    cache.mkdir()
    os.chown(cache, delegated_user.uid, -1)
    command = ["python", "-m", "pytest", "-q", "-o", f"cache_dir={cache}"]
    done = delegated_user.run([*command, *FOLDERS], cwd=delegated_user.place, timeout=1200)
    failed = lanes.failed_of(cache)
    if done.returncode == pytest.ExitCode.TESTS_FAILED and len(failed) <= lanes.MOST_TO_REPEAT:
        print(done.stdout)
        done = delegated_user.run([*command, *failed], cwd=delegated_user.place, timeout=200)

    assert done.returncode == 0, done.stdout + done.stderr
