"""What is refused where a container or a kernel is there already: one line, and nothing changes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import kernels
import pytest
from kernels import Kernel, text_of

import sandbox_kernel
from sandbox_kernel.cli import main
from sandbox_kernel.errors import InvalidOption

pytestmark = pytest.mark.everybody


@pytest.fixture(scope="module", autouse=True)
def _launcher_runs() -> None:
    """The launcher of this program is started now, not inside some test's count."""
    sandbox_kernel.Sandbox().close()


def children(pid: int) -> list[str]:
    """The processes that a process has started, from any of its threads."""
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += (task / "children").read_text().split()
    return found


@pytest.mark.whoever
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory": "banana"}, "option `kernelspec: memory`: `banana` is not allowed: a size"),
        ({"cpus": "nan"}, "option `kernelspec: cpus`: `nan` is not allowed: a number of"),
        ({"memroy": "1g"}, "there is no such setting: did you mean `memory`?"),
        ({"image": "Nope"}, "the repository `Nope` can't be: it has capital letters"),
        ({"image": "scratch"}, "find the Python of `scratch`: it has none in"),
        ({"mount": ["/etc:/x"]}, "option `--mount`: `/etc` is above what your settings allow"),
        ({"mount": ["./nowhere:/x"]}, "a path that is there"),
        ({"network": "host"}, "option `--network`: `host` is above what your settings allow"),
    ],
)
def test_a_kernel_with_a_wrong_option_says_so_in_each_cell_and_starts_nothing(
    options: dict[str, object], says: str
) -> None:
    with kernels.started(**options) as kernel:
        for _ in range(2):
            reply, outputs = kernel.run("print('never')")
            content = reply["content"]
            assert content["status"] == "error"
            assert says in content["evalue"]
            assert content["evalue"].isprintable()
            assert len(content["traceback"]) == 1
            assert text_of(outputs) == ""
        assert children(kernel.pid) == []


def test_a_notebook_asks_for_less_and_is_refused_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notebook is named as Jupyter Server names it."""
    own = tmp_path / "sandbox-kernel/config.toml"
    own.parent.mkdir()
    own.write_text("[ceiling]\nmemory = '256m'\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "x.ipynb"))
    for asked, shown in (("128m", "128 MiB"), ("1g", "at most 256 MiB")):
        table = {"sandbox_kernel": {"memory": asked, "hostname": "small"}}
        notebook = {"cells": [], "metadata": table, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / "x.ipynb").write_text(json.dumps(notebook))
        with kernels.started() as one:
            reply, outputs = one.run("%sandbox")
            assert shown in str(outputs)
            assert reply["content"]["status"] == ("ok" if asked == "128m" else "error")
            assert asked == "128m" or str(own) in reply["content"]["evalue"]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernels.started() as one:
        yield one


@pytest.mark.whoever
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%sandbox --memory banana", "`banana` is not allowed: a size such as 256m"),
        ("%sandbox --memory=-1", "`-1` is not allowed: a size such as 256m"),
        ("%sandbox --memory '10 gigs'", "`10 gigs` is not allowed: a size such as 256m"),
        ("%sandbox --cpus nan", "`nan` is not allowed: a number of processors"),
        ("%sandbox --pids-limit 0", "`0` is not allowed: a whole number from 4"),
        ("%sandbox --memroy 1g", "did you mean `--memory`?"),
        ("%sandbox --hostname x", "in a live container only --memory"),
        ("%sandbox --memory 256m --memory-swap 128m", "at least `memory`"),
        ("%sandbox --memory", "--memory SIZE"),
        ("%sandbox '", "quotes that are closed"),
    ],
)
def test_a_wrong_line_to_a_live_kernel_changes_nothing(
    kernel: Kernel, line: str, says: str
) -> None:
    def shown() -> str:
        found = [m for m in kernel.run("%sandbox")[1] if m["msg_type"] == "display_data"]
        return "".join(m["content"]["data"]["text/plain"] for m in found)

    before = shown()
    reply, _ = kernel.run(line)

    assert reply["content"]["status"] == "error"
    assert says in reply["content"]["evalue"]
    assert reply["content"]["evalue"].isprintable()
    assert shown() == before
    assert before
    assert text_of(kernel.run("print(6 * 7)")[1]) == "42\n"


def test_wrong_limits_of_a_live_sandbox_change_nothing() -> None:
    with sandbox_kernel.Sandbox(timeout=60) as sandbox:
        before = sandbox.limits()
        for name, value in [("memory", "banana"), ("memory", -1), ("cpus", float("nan")),
                ("pids_limit", True), ("hostname", "x"), ("banana", 1)]:  # fmt: skip
            with pytest.raises(InvalidOption):
                sandbox.set_limits(**{name: value})
        assert sandbox.limits() == before
        assert sandbox.run("print(1)").stdout == "1\n"


def test_a_mount_target_through_a_link_is_refused_by_its_option(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link").symlink_to("/etc")
    with pytest.raises(InvalidOption, match=r"`--mount`: `/x/link/y` .* no symbolic link"):
        sandbox_kernel.run("pass", mount=[f"{inner}:/x", f"{tmp_path}:/x/link/y"])
    assert os.listdir(inner) == ["link"]


@pytest.mark.whoever
def test_wrong_values_of_the_cell_itself_are_refused() -> None:
    with pytest.raises(InvalidOption, match="outputs"):
        sandbox_kernel.run("x = 1", outputs=["not a name"])
    with pytest.raises(sandbox_kernel.engine.errors.ValueNotTransferable, match="`thing`"):
        sandbox_kernel.run("pass", inputs={"thing": object()})


# -- the verbs of the command ----------------------------------------------------------------------


ARGUMENTS = {"exec": ("true",), "limits": ("--memory=64m",), "cp": ("/tmp",)}
VERBS = ("exec", "inspect", "limits", "logs", "top", "stop", "rm", "diff", "cp")


@pytest.mark.whoever
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["nobody", "../x", "", "-", "x" * 10_000, "a\nb", "*", "\x1b[2J"])
def test_a_container_that_is_not_there_is_one_line(
    verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = f"{name}:/etc" if verb == "cp" else name
    status = main.main([verb, "--", wanted, *ARGUMENTS.get(verb, ())])

    printed = capsys.readouterr()
    assert status == main.FAILED
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("sandbox-kernel: ")
    assert printed.err[:-1].isprintable()
    assert len(printed.err) < 1000


@pytest.mark.whoever
@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_refuses_what_it_does_not_know(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # The command of an OCI runtime is called by its own name, and ends as other runtimes do.
    name = "sandbox-kernel-runtime" if verb == "runtime" else f"sandbox-kernel: {verb}"
    assert main.main([verb, "--banana"]) == (1 if verb == "runtime" else main.FAILED)
    printed = capsys.readouterr()
    assert printed.err == (
        f"{name}: option `--banana`: `--banana` is not allowed: there is no such option\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["limits", "--memory=banana"], "256m or 1.5g"),
        (["limits", "--cpus=nan"], "a number of processors"),
        (["limits", "--memory=1k"], "at least 6 MiB"),
        (["stop", "--time=banana"], "500ms, 30s"),
        (["stop", "--time=-1"], "500ms, 30s"),
        (["inspect", "--format=yaml"], "there is no such option"),
        (["top", "--format=yaml"], "table, json"),
    ],
)
def test_a_wrong_option_for_a_live_container_leaves_it_as_it_is(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with sandbox_kernel.Sandbox(memory="64m", timeout=60) as sandbox:
        before = sandbox.limits()
        assert main.main([*words, sandbox.container.id]) == main.FAILED
        printed = capsys.readouterr()
        assert says in printed.err
        assert printed.err.count("\n") == 1
        assert sandbox.limits() == before
        assert sandbox.run("print(1)").stdout == "1\n"
