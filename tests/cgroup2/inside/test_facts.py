"""What a view of limits reads where control groups are of version 2: all of it in one container."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sandbox_kernel import policy, settings
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.observe.fact import NOT_COUNTED
from sandbox_kernel.observe.groups import RESOURCES, Group
from sandbox_kernel.observe.use import Use
from sandbox_kernel.widgets.limits import LimitsView

pytestmark = pytest.mark.root

MIB = 1 << 20
CODE = """
import os
kept = bytearray(os.urandom(4096)) * 5000
open('/tmp/written', 'wb').write(bytes(8 << 20))
print('up', flush=True)
while True: pass
"""


def test_a_view_has_the_numbers_of_the_groups_own_files() -> None:
    plan = policy.plan(settings.PROGRAM, memory="96m", cpus=0.5, pids_limit=30)
    with Container.create(plan) as container:
        process = container.run(ProcessSpec(argv=("python3", "-c", CODE)))
        place = Path(container.cgroup_paths()[""])
        source = Use(container, 0.2)
        source.open()
        view = LimitsView(container.name, "en")
        deadline = time.monotonic() + 120
        sample = source.look()
        while not (sample.memory_parts.get("shmem", 0) >= 8 * MIB and (sample.throttled or 0) > 0):
            assert time.monotonic() < deadline, sample
            time.sleep(0.2)
            sample = source.look()
        view.show(sample)

        limits = sample.limits
        assert (limits.memory, limits.processors, limits.pids) == (96 * MIB, 0.5, 30)
        assert (place / "memory.max").read_text() == f"{96 * MIB}\n"
        assert sample.memory_parts["anon"] >= 19 * MIB
        assert set(sample.memory_parts) >= {"anon", "file", "shmem"}
        assert "of 96 MiB" in view.text()
        container.set_limits(memory=80 * MIB)
        assert source.look().limits.memory == 80 * MIB

        has_pressure = os.path.exists("/proc/pressure/cpu")
        with Group(container.cgroup_paths()) as group:
            assert group.version == 2
            for name in RESOURCES:
                told = group.pressure()[name]
                assert told.source == f"{place}/{name}.pressure"
                if has_pressure:
                    assert told.value is not None
                    assert 0 <= told.value.full <= 100
                else:
                    assert (told.value, told.reason) == (None, NOT_COUNTED)
        assert ("waited in the last 10 s" in view.text()) == has_pressure
        process.kill()
        process.wait(60)
        process.close()
        source.close()
