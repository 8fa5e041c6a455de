"""The whole of jupyter_kernel_test's class for a Python kernel, against the sandbox kernel."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import kernels
import messaging


class PythonKernelTests(messaging.OfPython):
    """With a pager."""

    kernel_name = "sandbox-under-test"
    code_page_something = "zip?"

    @classmethod
    def setUpClass(cls) -> None:
        cls._folder = tempfile.TemporaryDirectory()
        cls._path = os.environ.get("JUPYTER_PATH")
        kernels.install(Path(cls._folder.name), cls.kernel_name)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls._folder.cleanup()
        os.environ.pop("JUPYTER_PATH")
        if cls._path is not None:
            os.environ["JUPYTER_PATH"] = cls._path
