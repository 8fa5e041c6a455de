"""What every test stands on: nothing may be left behind, nothing is skipped, two kinds of users."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import leftovers
import ordinary_user as ordinary
import pytest

FOLDERS_THAT_USE_THE_MACHINE = {"integration", "hostile", "browser", "cgroup2"}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Put the run below a keeper, which counts at the end what is left."""
    if leftovers.KEEPER in os.environ:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        leftovers.keep()
        return
    with capture.global_and_fixture_disabled():  # so that the keeper has the real stderr
        leftovers.keep()


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that uses the machine and leaves something on it."""
    folders = set(Path(request.node.path).parts)
    if not folders & FOLDERS_THAT_USE_THE_MACHINE or "PYTEST_XDIST_WORKER" in os.environ:
        yield
        return
    root = leftovers.keeper_pid()
    before = leftovers.take(root, program=os.getpid())
    yield
    left = leftovers.settled(root, before, program=os.getpid())
    assert not left, "left on the machine:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[ordinary.OrdinaryUser]:
    """The user `tester`: `ordinary_user.run(["python", "-c", ...])` runs as him."""
    yield from ordinary.made()
