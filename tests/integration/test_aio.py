"""`sandbox_kernel.aio` in real containers: many at once, and ended by cancelling."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator

import pytest

import sandbox_kernel
from sandbox_kernel import aio, errors
from sandbox_kernel.container import list_all
from sandbox_kernel.runtime import client

pytestmark = pytest.mark.everybody


@pytest.fixture(autouse=True, scope="module")
def _launcher() -> None:
    """The launcher of this process is started before anything is counted, and stays."""
    sandbox_kernel.run("pass").check()


@pytest.fixture(autouse=True)
def _no_descriptor_left(_launcher: None) -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def living() -> set[str]:
    """Ids of the containers of this process in which something runs."""
    folder = client.shared().about["folder"]
    return {found.id for found in list_all() if found.folder == folder and found.runs}


@pytest.mark.whoever
def test_many_run_at_once_without_a_thread_each() -> None:
    count = 40

    async def main() -> int:
        tasks = [asyncio.create_task(aio.run("import time\ntime.sleep(600)")) for _ in range(count)]
        try:
            while len(await asyncio.to_thread(living)) < count:
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.1)
            return threading.active_count()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    assert asyncio.run(main()) < count / 2


@pytest.mark.whoever
def test_each_of_many_has_its_own_result() -> None:
    async def main() -> list[sandbox_kernel.Result]:
        return await asyncio.gather(*(aio.run("item", inputs={"item": n}) for n in range(40)))

    results = asyncio.run(main())
    assert [result.check().text for result in results] == [str(n) for n in range(40)]


@pytest.mark.whoever
def test_output_values_and_errors_are_those_of_run() -> None:
    async def main() -> None:
        result = await aio.run("print('x' * 3_000_000)\na = 1", outputs=["a"], memory="100m")
        assert len(result.stdout) == 3_000_001
        assert result.outputs == {"a": 1}
        assert result.limits["memory"] == 100 << 20
        with pytest.raises(errors.CellRaised, match="ZeroDivisionError"):
            await aio.run("1 / 0", check=True)
        with pytest.raises(errors.TimedOut):
            await aio.run("while True: pass", timeout="300ms", check=True)

    asyncio.run(main())


def test_a_cancelled_task_ends_its_container() -> None:
    async def main() -> None:
        before = living()
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await aio.run("import time\ntime.sleep(600)")
        assert time.monotonic() - begin < 30
        assert living() <= before

    asyncio.run(main())


def test_a_task_cancelled_while_its_container_is_made_leaves_none() -> None:
    async def main() -> None:
        before = living()
        for delay in (0, 0.001, 0.003, 0.01):
            task = asyncio.create_task(aio.run("import time\ntime.sleep(600)"))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert living() <= before

    asyncio.run(main())


@pytest.mark.whoever
def test_map_is_in_order_and_its_end_ends_all() -> None:
    async def main() -> None:
        found = await aio.map("n = item * 2", range(5), outputs=["n"], workers=2, check=True)
        assert found.output("n") == [0, 2, 4, 6, 8]
        before = living()
        with pytest.raises(errors.ValueNotTransferable) as caught:
            await aio.map("import time\ntime.sleep(600)", [1, object()], workers=2)
        assert "item 1" in caught.value.__notes__[0]
        assert living() <= before

    asyncio.run(main())


def test_a_sandbox_stays_for_several_runs_and_for_one_that_is_cancelled() -> None:
    async def main() -> None:
        async with aio.Sandbox(memory="200m") as sandbox:
            await sandbox.run("open('note', 'w').write('hi')", check=True)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await sandbox.run("import time\ntime.sleep(600)")
            one, two = await asyncio.gather(
                sandbox.run("print(open('note').read())"), sandbox.run("2")
            )
            assert (one.stdout, two.text) == ("hi\n", "2")
            assert (await sandbox.limits())["memory"] == 200 << 20
            assert (await sandbox.set_limits(memory="100m"))["memory"] == 100 << 20
            assert (await sandbox.usage())["pids"] > 0
            inside = sandbox.id
        assert inside not in {found.id for found in list_all()}

    asyncio.run(main())


@pytest.mark.whoever
def test_a_sandbox_that_is_not_entered_says_so() -> None:
    async def main() -> None:
        with pytest.raises(errors.ContainerError, match="async with"):
            await aio.Sandbox().run("1")

    asyncio.run(main())
