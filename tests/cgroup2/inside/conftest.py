"""Inside the machine: writes each report where the host reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

REPORTS = Path("/run/machine/reports")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write reports, when a host waits for them."""
    if "SANDBOX_KERNEL_TEST_MACHINE" in os.environ and os.access(REPORTS.parent, os.W_OK):
        config.pluginmanager.register(Reports(config))


class Reports:
    """Reports as lines of JSON, in the form that pytest-xdist uses, too."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with REPORTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")
