"""`--runtime` in notebooks: the tests of kernels and magics once more behind each other wall.

A kernel behind another wall passes the tests of kernels as they are, and jupyter_kernel_test's
class. What a wall can't do is refused in one line that names it.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterator

import feature_promises
import kernels
import messaging
import pytest
from feature_promises import *  # noqa: F403
from kernel_promises import *  # noqa: F403
from kernels import Kernel

from notebooks import error, executed, text

RUNTIMES = ("runc", "runsc", "vm")


@pytest.fixture(scope="module", autouse=True)
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user lets notebooks choose any."""
    place = tmp_path_factory.mktemp("settings")
    (place / "sandbox-kernel").mkdir()
    lines = '[ceiling]\nruntime = ["embedded", "runc", "crun", "runsc", "vm"]\n'
    (place / "sandbox-kernel/config.toml").write_text(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(place))
        yield


@pytest.fixture(scope="module", params=RUNTIMES)
def kernel(request: pytest.FixtureRequest, allowed: None) -> Iterator[Kernel]:
    with kernels.started(runtime=request.param) as one:
        one.run("pass")  # its processes are there from here on
        yield one


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_messaging_specification(runtime: str) -> None:
    """The class that the messaging specification is tested with, against a kernel behind it."""

    class Behind(messaging.OfSandbox):
        kernel_name = f"sandbox-behind-{runtime}"
        options = {"runtime": runtime}  # noqa: RUF012
        slow = runtime in ("runsc", "vm")
        samples = messaging.OfSandbox.completion_samples
        completion_samples = samples[:1] if slow else samples
        """The other is one for jedi, which reads a hundred files of types first: no wall makes it
        another, and where each system call is traced it takes up to a minute for each sample."""

        @classmethod
        def setUpClass(cls) -> None:
            super().setUpClass()
            if cls.slow:
                cls.kc.execute_interactive("%config Completer.use_jedi = False")

    found = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Behind).run(found)
    assert [failure[1] for failure in (*found.errors, *found.failures)] == []
    assert found.testsRun > 10


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_debugger_stops_at_a_breakpoint(runtime: str) -> None:
    with kernels.started(runtime=runtime) as one:
        feature_promises.stops_at_a_breakpoint(one)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_notebook_of_container_cells(runtime: str) -> None:
    option, kept = f"--runtime {runtime}", f"kept-{runtime}"
    # Each item in a machine of its own works too, and is more than a test has time for.
    mapped = (
        ["n = 1"] if runtime == "vm" else [f"%%container {option} --map items --out n\nn = item"]
    )
    outputs = executed(
        f"%%container {option} --memory 256m --show limits\nprint('hi')\n6 * 7",
        f"%%container {option}\ndef f():\n    1 / 0\nf()",
        "import numpy as np\na = np.arange(4)\nitems = [1, 2]",
        f"%%container {option} --in a --out b\nb = a * 2",
        "b.sum()",
        f"%%container {option}\nfrom IPython.display import HTML\nHTML('<b>x</b>')",
        f"%%container {option} --timeout 2s\nwhile True: pass",
        f"%%container {option} --program sh\necho $0",
        f"%%container {option} --env SAID=so --workdir /tmp\n"
        "import os; print(os.environ['SAID'], os.getcwd())",
        f"%%container {option} --keep --name {kept}\nprint(open('/tmp/note', 'w').write('n'))",
        f"%%container {option} --keep --name {kept}\nprint(open('/tmp/note').read())",
        f"%container rm {kept}",
        *mapped,
        "n",
    )
    assert text(outputs[0]).startswith("hi\n")
    assert "256 MiB" in text(outputs[0])
    assert error(outputs[1]).ename == "ZeroDivisionError"
    assert outputs[4][0].data["text/plain"] == "np.int64(12)"
    assert outputs[5][0].data["text/html"] == "<b>x</b>"
    assert error(outputs[6]).ename == "TimedOut"
    assert text(outputs[7]) == "sh\n"
    assert text(outputs[8]) == "so /tmp\n"
    assert text(outputs[10]) == "n\n"
    assert runtime == "vm" or outputs[-1][0].data["text/plain"] == "[1, 2]"
