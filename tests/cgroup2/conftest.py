"""Shows each test that ran inside the machine as a test of this run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

INSIDE = "SANDBOX_KERNEL_TEST_MACHINE" in os.environ
collect_ignore = ["test_in_machine.py"] if INSIDE else ["inside"]


@pytest.fixture
def relay_reports(request: pytest.FixtureRequest) -> Callable[[bytes], int]:
    """Takes the lines of reports from inside, passes them on; returns how many tests they name."""

    def relay(lines: bytes) -> int:
        hook, config = request.node.ihook, request.config
        names = set()
        for line in lines.splitlines():
            data = json.loads(line)
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            hook.pytest_runtest_logreport(report=report)
            names.add(report.nodeid)
        return len(names)

    return relay
