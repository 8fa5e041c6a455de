"""What is marked `everybody`, once more: by an ordinary user with control groups of his own."""

from __future__ import annotations

import pytest
from ordinary_user import OrdinaryUser

FOLDERS = ("tests/integration", "tests/hostile")


@pytest.mark.timeout(930)
def test_what_is_for_everybody_works_for_an_ordinary_user(delegated_user: OrdinaryUser) -> None:
    done = delegated_user.run(
        ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *FOLDERS],
        cwd=delegated_user.place,
        timeout=900,
    )

    assert done.returncode == 0, done.stdout + done.stderr
