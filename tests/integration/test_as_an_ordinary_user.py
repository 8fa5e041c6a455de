"""The integration tests once more, as an ordinary user to whom root handed over control groups.

Tests that need root, by the mark `root` or by a fixture that makes a user, are left out there.
"""

from __future__ import annotations

import pytest
from ordinary_user import OrdinaryUser


@pytest.mark.timeout(900)
def test_the_integration_tests_pass_for_an_ordinary_user(delegated_user: OrdinaryUser) -> None:
    done = delegated_user.run(
        ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/integration"],
        cwd=delegated_user.place,
        timeout=880,
    )

    assert done.returncode == 0, done.stdout + done.stderr
