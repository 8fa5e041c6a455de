"""jupyter_kernel_test's class for a Python kernel, against "Sandbox Cells" in both modes."""

from __future__ import annotations

import io
import json
import unittest
from pathlib import Path

import kernels
import pytest
from jupyter_kernel_test import KernelTests


class Protocol(KernelTests):
    """Code for each thing of the messaging specification that this kernel has."""

    kernel_name = "cells-under-test"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [  # noqa: RUF012
        {"text": "zi", "matches": {"zip"}},
        {"text": "import iterto", "matches": {"itertools"}},
    ]
    complete_code_samples = ["1", "print('hello')", "def f(x):\n  return x * 2\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q"]  # noqa: RUF012
    code_generate_error = "raise ValueError"
    code_execute_result = [  # noqa: RUF012
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ]
    code_display_data = [  # noqa: RUF012
        {
            "code": "from IPython.display import HTML; display(HTML('<b>x</b>'))",
            "mime": "text/html",
        },
        {
            "code": "%matplotlib inline\nimport matplotlib.pyplot as p; p.plot([1, 2]); p.show()",
            "mime": "image/png",
        },
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


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


del KernelTests
Protocol.__test__ = False  # type: ignore[attr-defined] # run by the test above, not by pytest
