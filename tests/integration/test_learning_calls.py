"""`learn-seccomp`: a filter of what a program calls, kept by the user's word, and then in force."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import kernels
import nbformat
import pytest
from awaiting import until
from nbclient import NotebookClient

import sandbox_kernel
from sandbox_kernel import container, learnt, policy
from sandbox_kernel.bundle import seccomp_profile
from sandbox_kernel.container.process import ProcessSpec
from sandbox_kernel.errors import InvalidOption, StepFailed
from sandbox_kernel.observe.calls import Calls

COMMAND = str(Path(sys.executable).with_name("sandbox-kernel"))
PYTHON = sys.executable
# A call that no runner of ours makes, and one that it does.
CODE = "import os; os.sync(); print(os.getpid() > 0)"
OTHER = (
    "import errno, os\n"
    "try:\n    os.nice(1); print('nice')\n"
    "except OSError as error: print(errno.errorcode[error.errno])"
)


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of settings, also for the commands that a test runs."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "sandbox-kernel/seccomp"


def said(*words: str, status: int = 0) -> str:
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.everybody
def test_what_a_program_calls_is_shown_kept_and_then_all_that_it_may(configuration: Path) -> None:
    shown = said("learn-seccomp", "host", PYTHON, "-c", CODE)
    assert shown.startswith("True\n") and "sync (1)" in shown and "nothing is saved" in shown
    assert not configuration.exists()

    said("learn-seccomp", "--save", "mine", "host", PYTHON, "-c", CODE)
    kept = learnt.find("mine")
    assert kept is not None and {"sync", "getpid", "execve"} <= set(kept.calls)
    assert os.stat(configuration / "mine.json").st_mode & 0o777 == 0o600

    plan = policy.plan("program", seccomp="mine", memory="128m")
    spec = {"argv": (PYTHON, "-c", "input()\n" + OTHER)}
    read, written = os.pipe()
    go, gone = os.pipe()
    try:
        with container.Container.create(plan) as made:
            process = made.run(ProcessSpec(**spec, descriptors={0: go, 1: written}))
            assert process.started()
            with Calls.of(made, plan) as counted:
                until(lambda: counted.read().followed)
                os.write(gone, b"\n")
                until(lambda: counted.read().refused)
                refused = counted.read().refused
            assert process.wait().status == 0
            assert os.read(read, 100) == b"EPERM\n"
    finally:
        for descriptor in (read, written, go, gone):
            os.close(descriptor)
    # The view that counts calls names the one that was refused, and by whom.
    names = {(each.name, each.error, each.layer) for each in refused}
    assert names & {("setpriority", "EPERM", "filter"), ("getpriority", "EPERM", "filter")}

    assert said("run", "host", PYTHON, "-c", OTHER) == "nice\n"
    assert said("run", "--seccomp", "mine", "host", PYTHON, "-c", OTHER) == "EPERM\n"
    assert "True" in said("run", "--seccomp", "mine", "host", PYTHON, "-c", CODE)
    assert ["seccomp", "mine"] in [
        line.split()[:2] for line in said("plan", "--seccomp=mine").splitlines()
    ]

    # Learnt once more under the same name, it is added to; forgotten, it is refused by name.
    said("learn-seccomp", "--save", "mine", "host", PYTHON, "-c", OTHER)
    assert said("run", "--seccomp", "mine", "host", PYTHON, "-c", OTHER) == "nice\n"
    assert "mine" in said("learn-seccomp", "--list")
    said("learn-seccomp", "--forget", "mine")
    assert "learn-seccomp" in said("run", "--seccomp", "mine", "host", "true", status=125)


def test_a_notebook_learns_a_filter_and_cells_run_with_it(configuration: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    calm = "import os; os.sync(); print(os.getpid() > 0)"
    notebook.cells = [
        nbformat.v4.new_code_cell(code)
        for code in (
            "%load_ext sandbox_kernel",
            f"%container learn-seccomp --save of-the-notebook host {PYTHON} -c '{calm}'",
            "%container learn-seccomp --list",
            f"%%container --seccomp of-the-notebook\n{OTHER}",
            f"%%container\n{OTHER}",
            "%container learn-seccomp --save bad host /bin/false",
        )
    ]
    NotebookClient(notebook, kernel_name="python3", timeout=120, allow_errors=True).execute()

    said_by = ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells]
    assert "sync (1)" in said_by[1]
    kept = learnt.find("of-the-notebook")
    assert kept is not None and "sync" in kept.calls
    assert "of-the-notebook" in said_by[2]
    assert said_by[3:5] == ["EPERM\n", "nice\n"]
    assert learnt.find("bad") is None


def test_cells_and_kernels_run_with_the_smallest_filter(configuration: Path) -> None:
    learnt.save("least", ["read"], "a test")
    cell = sandbox_kernel.run("import numpy\nprint(numpy.ones(2).sum())\n1 / 0", seccomp="least")
    assert cell.stdout == "2.0\n" and cell.error is not None
    assert cell.error.name == "ZeroDivisionError"
    assert sandbox_kernel.run(OTHER, seccomp="least").stdout == "EPERM\n"
    with kernels.started(seccomp="least") as kernel:
        assert kernels.text_of(kernel.run(OTHER)[1]) == "EPERM\n"
        assert "x" in kernels.text_of(kernel.run("!echo x")[1])
        plot = "%matplotlib inline\nimport matplotlib.pyplot as p\np.plot([1]); p.show()"
        assert any("image/png" in str(m["content"].get("data")) for m in kernel.run(plot)[1])


def test_strict_takes_the_filter_of_the_image(configuration: Path) -> None:
    assert sandbox_kernel.run(OTHER, strict=True, cold=True).stdout == "nice\n"
    shown = said("learn-seccomp", "--save-for-image", "host", PYTHON, "-c", CODE)
    assert "--strict with host" in shown
    assert sandbox_kernel.run(OTHER, strict=True, cold=True).stdout == "EPERM\n"
    assert sandbox_kernel.run(OTHER, cold=True).stdout == "nice\n"


def test_a_failed_program_and_a_damaged_file_are_refused(configuration: Path) -> None:
    said("learn-seccomp", "--save", "bad", "host", PYTHON, "-c", "exit(3)", status=125)
    assert learnt.find("bad") is None
    configuration.mkdir(parents=True, exist_ok=True)
    for text in (b"{", b"[" * 2000, b'{"calls": []}', b'{"calls": ["../x"]}', b'{"calls": [1]}'):
        (configuration / "bad.json").write_bytes(text)
        with pytest.raises(StepFailed, match="learn it again"):
            policy.plan("program", seccomp="bad")
    (configuration / "bad.json").write_text(json.dumps({"calls": ["read"]}))
    (configuration / "bad.json").chmod(0o666)
    with pytest.raises(StepFailed, match="only you can write"):
        policy.plan("program", seccomp="bad")
    with pytest.raises(InvalidOption, match="learnt and saved"):
        policy.plan("program", seccomp="never")


def test_it_never_allows_more_than_without() -> None:
    every = [call for group in seccomp_profile.REFUSED for call in group.calls]
    for strict in (False, True):
        made = seccomp_profile.profile(learnt=[*every, "made_up"], strict=strict)
        usual = seccomp_profile.profile(strict=strict)

        def allowed(profile: object) -> set[str]:
            rules = profile["syscalls"]  # type: ignore[index]
            return {n for r in rules if r["action"] == "SCMP_ACT_ALLOW" for n in r["names"]}

        assert allowed(made) < allowed(usual)
