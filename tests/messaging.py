"""The messaging specification as jupyter_kernel_test puts it, in Python. No test in here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import kernels
from jupyter_kernel_test import KernelTests

SECONDS = 120.0


class OfPython(KernelTests):
    """Code for each thing that the messaging specification describes, but for the pager."""

    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [  # noqa: RUF012
        {"text": "zi", "matches": {"zip"}},
        {"text": "import itertools; itertools.chai", "matches": {"chain"}},
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
            "code": "from IPython.display import HTML, display; display(HTML('<b>x</b>'))",
            "mime": "text/html",
        },
        {
            "code": "%matplotlib inline\nimport matplotlib.pyplot as p; p.plot([1, 2]); p.show()",
            "mime": "image/png",
        },
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "range", "search")

    def get_non_kernel_info_reply(self, timeout: float | None = SECONDS) -> dict[str, Any] | None:
        """The next reply. The class waits for ever: asyncio swallows what would end the test."""
        return super().get_non_kernel_info_reply(timeout)

    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class OfSandbox(OfPython):
    """Against "Sandbox (Python 3)", which has a pager. `options`: of its kernelspec."""

    kernel_name = "sandbox-under-test"
    code_page_something = "zip?"
    options: ClassVar[dict[str, str]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        cls._folder = tempfile.TemporaryDirectory()
        cls._path = os.environ.get("JUPYTER_PATH")
        kernels.install(Path(cls._folder.name), cls.kernel_name, **cls.options)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls._folder.cleanup()
        os.environ.pop("JUPYTER_PATH")
        if cls._path is not None:
            os.environ["JUPYTER_PATH"] = cls._path
