"""A clock that jumps: only in this machine can it be set without anybody else noticing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile_registry import Handler, Server, image
from registries import certificates

import sandbox_kernel
from sandbox_kernel.errors import RegistryError
from sandbox_kernel.image import reference
from sandbox_kernel.image.registry import pull
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.registry.limits import Limits
from sandbox_kernel.image.store import Store
from sandbox_kernel.runtime import client

YEAR = 365 * 86400.0
pytestmark = pytest.mark.root  # who alone sets the clock


@contextmanager
def a_clock_that_may_be_set() -> Iterator[None]:
    """It goes right again afterwards."""
    real, steady = time.time(), time.monotonic()
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, real + time.monotonic() - steady)


def jump(seconds: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


@pytest.mark.fault(12)
def test_a_clock_that_jumps_ends_nothing_and_spares_nothing() -> None:
    sandbox_kernel.run("pass").check()
    with a_clock_that_may_be_set(), sandbox_kernel.Sandbox(timeout="60s") as sandbox:
        for seconds in (YEAR, -2 * YEAR):
            year = time.gmtime().tm_year
            later = threading.Timer(0.3, jump, (seconds,))
            later.start()
            code = f"import time\nwhile time.gmtime().tm_year == {year}: time.sleep(0.05)\nprint(1)"
            assert sandbox.run(code).check().stdout == "1\n"
            later.join()
        assert client.shared().alive()
        with sandbox_kernel.Sandbox(timeout="2s") as hasty:
            later = threading.Timer(0.3, jump, (-YEAR,))
            later.start()
            found = hasty.run("while True: pass")
            later.join()
        assert found.error is not None
        assert found.error.name == "TimedOut"
        assert sandbox.run("print(2)").check().stdout == "2\n"


@pytest.mark.fault(12)
def test_a_good_certificate_is_refused_with_the_wrong_time_and_taken_when_the_clock_is_right(
    tmp_path: Path,
) -> None:
    good = certificates(tmp_path / "certificates")
    settings = Configuration(ca_files=(str(good.ca),), limits=Limits(first_wait=0.01))
    store = Store.open(str(tmp_path / "images"))
    with Server(tls=good) as server:
        name = reference.registry(server.name)
        for seconds, wrong in ((YEAR, "it has expired"), (-YEAR, "it is not valid yet")):
            with a_clock_that_may_be_set():
                jump(seconds)
                now = time.strftime("%Y-%m-%d", time.gmtime())
                with pytest.raises(RegistryError, match=rf"time, {now} .*: {wrong}: .* clock"):
                    pull(store, name, configuration=settings)
        assert store.images() == []
        pull(store, name, configuration=settings)
        assert store.check() == []


@pytest.mark.fault(12)
@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
def test_a_pull_goes_on_when_the_clock_jumps(tmp_path: Path, seconds: float) -> None:
    """Its deadlines are none of that clock, and what it made is flushed in time."""
    store = Store.open(str(tmp_path / "images"))
    with Server(image({"large": bytes(1 << 20)})) as server, a_clock_that_may_be_set():
        begun = time.time()

        def late(handler: Handler) -> None:
            jump(seconds)
            server.decent(handler)

        server.answers["GET", server.blob] = late
        pulled = pull(store, reference.registry(server.name))
        assert abs(time.time() - begun - seconds) < 3600
        assert len(server.seen("GET", server.blob)) == 1
    (tree,) = [store.layer(diff_id) for diff_id in pulled.diff_ids]
    assert tree is not None
    store.settle([tree])
    assert '"flushed": true' in Path(tree).with_name("facts").read_text()
