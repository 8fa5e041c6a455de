"""What every test stands on: nothing may be left behind, nothing is skipped, two kinds of users."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import leftovers
import ordinary_user as ordinary
import outcomes
import pytest

from sandbox_kernel.image.layers import remove_tree
from sandbox_kernel.image.store import Store, places
from sandbox_kernel.network import client as network
from sandbox_kernel.runtime import client

FOLDERS_THAT_USE_THE_MACHINE = {"integration", "hostile", "browser", "cgroup2"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `tests/hostile_table.py` asks for."""
    parser.addoption("--outcomes", metavar="FILE", help="append what became of each test, as JSON")
    parser.addoption(
        "--corpus",
        action="store_true",
        help="as an ordinary user run also what is not marked for everybody, but root's alone",
    )
    parser.addoption(
        "--with-groups",
        action="store_true",
        help="root handed control groups over to this user: run what needs them",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Put the run below a keeper, which counts at the end what is left."""
    if config.getoption("outcomes"):
        config.pluginmanager.register(outcomes.Writer(config.getoption("outcomes")))
    if leftovers.KEEPER in os.environ:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        leftovers.keep()
        return
    with capture.global_and_fixture_disabled():  # so that the keeper has the real stderr
        leftovers.keep()


def _stop_what_waits() -> None:
    """Ready containers are kept on purpose, between tests they would be counted as left."""
    client.stop_pool()
    client.stop_holder()
    network.stop()


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that uses the machine and leaves something on it."""
    folders = set(Path(request.node.path).parts)
    if not folders & FOLDERS_THAT_USE_THE_MACHINE or "PYTEST_XDIST_WORKER" in os.environ:
        yield
        return
    _stop_what_waits()
    root = leftovers.keeper_pid()
    before = leftovers.take(root, program=os.getpid())
    yield
    _stop_what_waits()
    left = leftovers.settled(root, before, program=os.getpid())
    assert not left, "left on the machine:\n" + "\n".join(left)


def _remove(folder: str) -> None:
    """A folder whose trees have many owners. What lies beside it may be mounted upon by others."""
    for name in os.listdir(folder):
        try:
            shutil.rmtree(f"{folder}/{name}")
        except (OSError, RecursionError):  # of other owners, or deep: by a process made for it
            remove_tree(f"{folder}/{name}")
    os.rmdir(folder)


@pytest.fixture(scope="session", autouse=True)
def _images_of_the_tests() -> Iterator[None]:
    """A store of images that is theirs, so that nobody's own one is touched."""
    folder = tempfile.mkdtemp(prefix="sandbox-kernel-images-", dir="/var/tmp")
    os.environ[places.VARIABLE] = f"{folder}/store"
    yield
    del os.environ[places.VARIABLE]
    _remove(folder)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store, which is that of this process and of all that it starts."""
    folder = tempfile.mkdtemp(prefix="sandbox-kernel-images-", dir="/var/tmp")
    monkeypatch.setenv(places.VARIABLE, f"{folder}/store")
    yield Store.open()
    _remove(folder)


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[ordinary.OrdinaryUser]:
    """The user `tester`: `ordinary_user.run(["python", "-c", ...])` runs as him."""
    if "SANDBOX_KERNEL_TEST_MACHINE" in os.environ:
        pytest.skip("the machine reaches no index to make an ordinary user's environment from")
    if os.geteuid() != 0:
        pytest.skip("root starts it for an ordinary user")
    yield from ordinary.made()


@pytest.fixture(scope="module")  # others test a user to whom nothing was handed over
def delegated_user(ordinary_user: ordinary.OrdinaryUser) -> Iterator[ordinary.OrdinaryUser]:
    """The same user, to whom root handed over a subtree of every cgroup hierarchy."""
    with ordinary_user.control_groups():
        yield ordinary_user


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration nothing is skipped: what a test lacks has to be installed."""
    report = yield
    if os.environ.get("CI") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI forbids (run `make packages-to-test`): {call.excinfo}"
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test is found by the flaws that it is marked with: `pytest -k CVE-2019-5736`."""
    for mark in item.iter_markers("cve"):
        item.extra_keyword_matches.update(word.replace(" ", "-") for word in mark.args)


def _is_for_everybody(item: pytest.Item) -> bool:
    if item.get_closest_marker("whoever"):
        return False
    return item.get_closest_marker("everybody") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """An ordinary user runs what is marked for everybody; unit tests always are.

    Not again what is the same code for whoever runs it, unless the whole corpus is asked for.
    """
    if os.geteuid() == 0:
        return
    kept_from_him = ["root"] if config.getoption("with_groups") else ["root", "groups"]
    left_out = [
        item
        for item in items
        if set(item.path.parts) & FOLDERS_THAT_USE_THE_MACHINE
        and (
            (not config.getoption("corpus") and not _is_for_everybody(item))
            or any(item.get_closest_marker(name) for name in kept_from_him)
        )
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def interrupt_taken_by_another_thread() -> Iterator[None]:
    """Soon there is an interrupt, which does not wake the main thread from what it waits for."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    sent = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    sent.start()  # with the mask of now: it can take the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    try:
        yield
    finally:
        sent.cancel()
        sent.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1,))
        signal.signal(signal.SIGUSR1, before)
