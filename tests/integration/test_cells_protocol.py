"""jupyter_kernel_test's class for a Python kernel, against "Sandbox Cells" in both modes."""

from __future__ import annotations

import io
import json
import unittest
from pathlib import Path

import kernels
import messaging
import pytest


class Protocol(messaging.OfPython):
    """Run by the test below, not by pytest."""

    __test__ = False
    kernel_name = "cells-under-test"


@pytest.mark.parametrize("mode", ["fresh", "carry"])
def test_the_kernel_does_what_the_messaging_specification_says(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One test, since the kernel keeps containers until its end.
    monkeypatch.setenv("JUPYTER_PATH", "")
    monkeypatch.setenv("SANDBOX_KERNEL_OPTIONS", json.dumps({"mode": mode}))
    kernels.install(tmp_path, Protocol.kernel_name, kernels.CELLS)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Protocol)
    said = io.StringIO()

    found = unittest.TextTestRunner(said, verbosity=2).run(suite)

    assert found.wasSuccessful(), said.getvalue()
    assert found.testsRun > 10
    assert {test.id().rpartition(".")[2] for test, _ in found.skipped} == {"test_pager"}
