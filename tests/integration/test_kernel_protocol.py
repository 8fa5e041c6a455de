"""The whole of jupyter_kernel_test's class for a Python kernel, against the sandbox kernel."""

from __future__ import annotations

import messaging


class PythonKernelTests(messaging.OfSandbox):
    """As it is installed."""
