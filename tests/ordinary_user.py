"""An ordinary user of this machine with a Python environment of his own, for tests run as root.

The environment is based on the system's Python, lies outside every home, holds the package as an
installation would (not editable), and is made once: by `lanes`, which names it to its lanes, or by
the run of the tests that needs it. Who made it removes it at the end.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sandbox_kernel.runtime.cgroups import delegation

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "tester"
SYSTEM_PYTHON = "/usr/bin/python3"
PLACES = "/opt"
"""Where places are made: not below a temporary folder, of which each lane may have its own."""
PLACE = "SANDBOX_KERNEL_TESTS_PLACE"
"""The variable that names a place that was made before."""
TO_REACH_THE_INDEX = ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "UV_DEFAULT_INDEX")
REQUIREMENTS = (
    "altair",
    "debugpy",
    "matplotlib",
    "nbclient",
    "numpy",
    "pandas",
    "psutil",
    "pytest",
    "pytest-timeout",
    "hypothesis",
    "jupyter_kernel_test",
)
IMPORTED = (
    "IPython, debugpy.server.api, hypothesis, ipykernel.kernelapp, ipywidgets, jupyter_client",
    "jupyter_kernel_test, matplotlib.backends.backend_agg, matplotlib.pyplot, nbclient, numpy",
    "numpy.random, pandas, psutil, pyarrow, pyroute2, pytest, pytest_timeout, rattler, yaml",
)
"""Who can't write there has the byte code of these, which is a third of all, and the package's."""


class OrdinaryUser(NamedTuple):
    """Who it is, and where his environment and a copy of the tests lie."""

    name: str
    uid: int
    home: Path
    place: Path

    @property
    def python(self) -> str:
        """The interpreter of his environment."""
        return str(self.place / "environment/bin/python")

    def command(self, argv: list[str]) -> list[str]:
        """The argv that runs `argv` as this user from root."""
        identity = ["--reuid", self.name, "--regid", self.name, "--init-groups"]
        return ["/usr/bin/setpriv", *identity, "--reset-env", "--", *argv]

    def run(
        self,
        argv: list[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        check: bool = False,
        **popen: object,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` as this user, in his home folder, and give back what it printed.

        A bare `python` is the one of his environment.
        """
        program = {"python": self.python, "python3": self.python}.get(argv[0], argv[0])
        words = [f"PATH={self.place}/environment/bin:/usr/bin:/bin", "LANG=C.UTF-8"]
        reach = {name: os.environ[name] for name in TO_REACH_THE_INDEX if name in os.environ}
        words += [f"{name}={value}" for name, value in (reach | dict(env or {})).items()]
        settings: dict[str, object] = {
            "cwd": self.home,
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
        } | popen
        return subprocess.run(
            self.command(["/usr/bin/env", *words, program, *argv[1:]]),
            timeout=timeout,
            check=check,
            **settings,  # type: ignore[call-overload]
        )

    @contextlib.contextmanager
    def control_groups(self) -> Iterator[None]:
        """Hand over a subtree of every hierarchy by the commands that `doctor` prints for root."""
        for line in delegation.commands(self.name, systemd=False):
            subprocess.run(["/bin/sh", "-c", line], check=True)
        try:
            yield
        finally:
            for mount in Path("/proc/self/mountinfo").read_text().splitlines():
                before, _, after = mount.partition(" - ")
                if after.startswith("cgroup"):
                    mine = Path(before.split()[4], "sandbox-kernel", f"user-{self.uid}")
                    if mine.is_dir():
                        mine.rmdir()


def made() -> Iterator[OrdinaryUser]:
    """Make user and environment; the environment goes again, the user stays for the next time."""
    if os.geteuid() != 0:
        raise RuntimeError("the tests of an ordinary user are started by root: run as root")
    entry = _user()
    if PLACE in os.environ:
        yield OrdinaryUser(NAME, entry.pw_uid, Path(entry.pw_dir), Path(os.environ[PLACE]))
        return
    place = Path(tempfile.mkdtemp(prefix="sandbox-kernel-tests-", dir=PLACES))
    try:
        place.chmod(0o755)
        _install(place)
        yield OrdinaryUser(NAME, entry.pw_uid, Path(entry.pw_dir), place)
    finally:
        shutil.rmtree(place)


def _user() -> pwd.struct_passwd:
    """The user's entry; made when he is missing, with a range of ids in /etc/subuid."""
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        subprocess.run(
            ["/usr/sbin/useradd", "--create-home", "--shell", "/bin/sh", NAME], check=True
        )
        entry = pwd.getpwnam(NAME)
    for kind in ("subuids", "subgids"):
        table = Path("/etc", kind.removesuffix("s")).read_text()
        if not any(line.startswith(f"{NAME}:") for line in table.splitlines()):
            last = [
                int(start) + int(count)
                for _, start, count in (line.split(":") for line in table.split())
            ]
            start = max([100_000, *last])
            subprocess.run(
                ["/usr/sbin/usermod", f"--add-{kind}", f"{start}-{start + 65535}", NAME],
                check=True,
            )
    return entry


def _install(place: Path) -> None:
    uv = shutil.which(os.environ.get("UV", "uv")) or str(REPOSITORY / ".venv-uv/bin/uv")
    environment = place / "environment"
    python = str(environment / "bin/python")
    subprocess.run([uv, "venv", "--quiet", "--python", SYSTEM_PYTHON, environment], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, f"{REPOSITORY}[arrow,conda]", *REQUIREMENTS], check=True)
    write = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    write["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # debugpy warns of frozen modules
    package = subprocess.run(
        [python, "-I", "-c", "import sandbox_kernel; print(*sandbox_kernel.__path__)"],
        check=True, capture_output=True, text=True, env=write,
    ).stdout.strip()  # fmt: skip
    subprocess.run([python, "-m", "compileall", "-q", package], check=True, env=write)
    for names in IMPORTED:
        subprocess.run([python, "-I", "-c", f"import {names}"], check=True, env=write)
    shutil.copytree(
        REPOSITORY / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "README.zh-CN.md"):
        shutil.copy(REPOSITORY / name, place)
    shutil.copytree(REPOSITORY / "docs", place / "docs", ignore=shutil.ignore_patterns("images"))
    for path in [place, *place.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
