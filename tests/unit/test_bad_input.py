"""A wrong value is refused in one line, whichever way it came, and nothing is started for it.

Each way (command, magic, Python, kernelspec, project file) gets each wrong value of each option.
The line names the option as it was typed, the value, and what is allowed instead.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

import sandbox_kernel
from sandbox_kernel import arguments, policy, settings
from sandbox_kernel.cli import main
from sandbox_kernel.errors import InvalidOption, NotAllowed, SandboxError
from sandbox_kernel.kernel import start

SIZES = ["banana", "-1", "10 gigs", "0", "1e3", "nan", "1,5g", "9" * 30, "1\N{KELVIN SIGN}", ""]
TIMES = ["banana", "-1", "1 day", "nan", "1e400", "inf", "10y", ""]
WHOLE = ["banana", "-1", "0", "1.5", "nan", "0x10", "9" * 30, ""]
RATES = ["banana", "/dev/sda", "sda:1m", "/dev/sda:fast", "/dev/../etc/passwd:1m", "/dev/null:1m"]
PATHS = ["work", "", "../x", "/a/../..", "/a\t"]
WRONG: dict[str, list[str]] = {
    "image": ["-v", "Nope", "docker.io/library/Py", "dir:/no/such/folder", "dir:", "host\x7f"],
    "memory": [*SIZES, "4k"],
    "memory_swap": [*SIZES, "4k"],
    "cpus": ["nan", "inf", "-1", "0", "banana", "1e400", "two", "100000", "0.001", ""],
    "cpuset_cpus": ["banana", "-1", "3-1", "0,", "99999", ""],
    "cpu_shares": [*WHOLE, "1", "262145"],
    "pids_limit": [*WHOLE, "4194305"],
    "device_read_bps": RATES,
    "device_write_bps": RATES,
    "ulimit": ["banana", "nofile", "nofile=-1", "nofile=9:1", "files=1", "nofile=1:2:3", ""],
    "storage_size": SIZES,
    "timeout": [*TIMES, "0"],
    "network": ["a b", "container:", "container:a:b", "-x", "../x", "x" * 64, "n\u0430me", ""],
    "allow": ["", ":443", "https://pypi.org", "pypi.org:0", "0x7f000001", "127.0.0.1", "[::1]:80"],
    "publish": ["", "0", "80:", ":80", "1:2:3:4", "80:80/udp", "localhost:80:80", "65536:80", "-1"],
    "bandwidth": ["", "fast", "10", "10mb", "-1mbit", "0mbit", "2000gbit"],
    "latency": [*TIMES, "11s"],
    "loss": ["", "1", "101%", "-1%", "0.00001%", "nan"],
    "network_range": ["", "8.8.0.0/16", "10.0.0.0/8", "10.88.0.1/16", "tcp:10.88.0.0/16", "banana"],
    "allow_from": ["", "pypi", "requirements,pypi"],
    "network_hardware": ["", "02", "02:5b:00", "01:00", "00:16", "zz:zz"],
    "mount": [
        "/", "banana:/x", "./nowhere:/x", "/etc:relative", "/etc:/", "/etc:/proc/x", "/etc:/x:rx",
        "~:/x", "type=bind,source=/etc", "type=volume,source=x,target=/x", "/etc:/x,bind-nonrec",
        "type=bind,source=/etc,target=/x,size=1m", "type=tmpfs,target=/x,size=-1", "/dev/null:/x",
        "type=bind,source=/etc,target=/x,target=/y", "$(id):/x", "/etc:/../x", "",
    ],
    "read_only": ["maybe", "1", "TRUE", ""],
    "env": ["1A=x", "=x", "A B=x", "", f"A={'x' * 131001}"],
    "workdir": PATHS,
    "user": ["-1", "70000", "a b", "0:0:0", "root:", "", "ROOT!"],
    "entrypoint": [""],
    "hostname": ["-a", "a_b", "a" * 64, "a.b", ""],
    "name": ["--help", "-v/:/x", "../x", ".", "", "x" * 10_000, "n\N{CYRILLIC SMALL LETTER A}me"],
    "keep": ["maybe", "0"],
    "label": ["", "=x", " =x", "a b=c"],
    "stop_timeout": TIMES,
    "interrupt_grace": TIMES,
    "output_limit": [*SIZES, "1"],
    "cap_add": ["banana", "SYS_BANANA", "-1", ""],
    "cap_drop": ["banana", ""],
    "security_opt": ["seccomp=/my/profile.json", "label=disable", "apparmor=unconfined", ""],
    "seccomp": ["", "../x", "a/b", "no-such-filter", "x" * 100],
    "strict": ["maybe", "1", ""],
    "runtime": ["banana", "runc;id", ""],
    "audit": ["banana", "true", "ON", ""],
    "output": ["banana", "Safe", "safe,text", ""],
    "warm": ["", "num py", "1st", "os;system", "../os"],
    "holder": ["maybe"],
    "cold": ["maybe"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file says anything; this is where a project would be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in (settings.KERNELSPEC_VARIABLE, settings.NOTEBOOK_VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _nothing_starts() -> Iterator[None]:
    """Neither a launcher nor any other process."""
    before = children()
    yield
    assert children() <= before


def children() -> set[str]:
    """The processes that this one has started, from any of its threads."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update((task / "children").read_text().split())
    return found


class Ways:
    """How an option comes: every method gives the message that a wrong value leads to."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def complaint(self, *words: str) -> str:
        """The one line on standard error of a command that fails as it should."""
        status = main.main(words)
        printed = self.capsys.readouterr()
        assert (status, printed.out) == (main.FAILED, ""), words
        assert printed.err.count("\n") == 1, printed.err
        return printed.err.rstrip("\n")

    def run(self, option: str, value: str) -> str:
        """sandbox-kernel run OPTION host true"""
        if option == "image":
            return self.complaint("run", "--", value, "true")
        return self.complaint("run", spelled(option, value), "host", "true")

    def plan(self, option: str, value: str) -> str:
        """sandbox-kernel plan OPTION"""
        return self.complaint("plan", spelled(option, value))

    def install(self, option: str, value: str) -> str:
        """sandbox-kernel install OPTION"""
        if option in ("name", "keep", "entrypoint"):
            return ""  # there is no such option of an installed kernel
        flag = f"-u={value}" if option == "user" else spelled(option, value)
        said = self.complaint("install", "--prefix", str(self.folder), flag)
        assert not (self.folder / "share").exists()
        return said.replace("`-u`", "`--user`")

    def cell(self, option: str, value: str) -> str:
        """%%container OPTION"""
        line = shlex.quote(spelled(option, value))
        return raised(lambda: shell().run_cell_magic("container", line, "pass"))

    def defaults(self, option: str, value: str) -> str:
        """%sandbox OPTION"""
        line = shlex.quote(spelled(option, value))
        return raised(lambda: shell().run_line_magic("sandbox", line))

    def function(self, option: str, value: str) -> str:
        """sandbox_kernel.run("pass", OPTION)"""
        return raised(lambda: sandbox_kernel.run("pass", **{option: value}))

    def object(self, option: str, value: str) -> str:
        """sandbox_kernel.Sandbox(OPTION)"""
        return raised(lambda: sandbox_kernel.Sandbox(**{option: value}))

    def kernelspec(self, option: str, value: str) -> str:
        """The environment that a kernelspec gives to the kernel."""
        os.environ[settings.KERNELSPEC_VARIABLE] = json.dumps({option: value})
        return self.started()

    def started(self) -> str:
        inside = start.Inside()
        inside.start()
        os.close(inside.errors_read)
        os.close(inside.wake)
        assert inside.container is None
        assert isinstance(inside.failure, SandboxError)
        return str(inside.failure)

    def notebook(self, option: str, value: str) -> str:
        """The metadata of the notebook that a kernel is started for."""
        metadata = {"sandbox_kernel": {option: value}}
        (self.folder / "x.ipynb").write_text(json.dumps({"cells": [], "metadata": metadata}))
        os.environ[settings.NOTEBOOK_VARIABLE] = "x.ipynb"
        return self.started()

    def project(self, option: str, value: str) -> str:
        """sandbox.toml in the working folder"""
        (self.folder / "sandbox.toml").write_text(f"{option} = {json.dumps(value)}\n")
        return raised(lambda: sandbox_kernel.run("pass"))


def raised(act: Callable[[], object]) -> str:
    with pytest.raises(SandboxError) as caught:
        act()
    return str(caught.value)


def spelled(option: str, value: str) -> str:
    """`--memory=banana`: also for values that begin with a sign."""
    return f"{settings.OPTIONS[option].flags[0]}={value}"


@functools.cache
def shell() -> InteractiveShell:
    made = InteractiveShell()
    sandbox_kernel.load_ipython_extension(made)
    return made


WAYS = [name for name, kind in vars(Ways).items() if callable(kind) and kind.__doc__][1:]


def test_every_option_has_wrong_values() -> None:
    assert set(WRONG) == set(settings.OPTIONS) - settings.OF_A_KERNEL


@pytest.mark.parametrize("option", WRONG)
@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(
    way: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = getattr(Ways(tmp_path, capsys), way)
    for value in WRONG[option]:
        if way in ("cell", "defaults") and len(value) > 1000:
            continue  # IPython itself takes seconds to look for `{names}` in a long line
        said = ask(option, value)
        if not said:
            continue
        assert said.isprintable()
        assert "Traceback" not in said
        named = {f"`{settings.OPTIONS[option].flags[0]}`", option, f"`{way}: {option}`", "image `"}
        assert any(name in said for name in named), (value, said)
        mark = " is not allowed: " if " is not allowed: " in said else "`: "
        refused, _, allowed = said.partition(mark)
        part = refused.rpartition(" `")[2].rstrip("`").rstrip("…")  # the wrong part of the value
        assert part.rstrip("\N{REPLACEMENT CHARACTER}") in value, (value, said)
        assert len(allowed) > 8, (value, said)


# -- what a table can't list ----------------------------------------------------------------------


ANYTHING = st.one_of(
    st.text(max_size=60),
    st.text("0123456789.-:/=,kmgs", max_size=12),
    st.sampled_from([value for values in WRONG.values() for value in values]),
)


@pytest.mark.parametrize("option", settings.OPTIONS)
@given(value=ANYTHING)
def test_whatever_text_an_option_gets_is_a_value_or_one_line(option: str, value: str) -> None:
    flags = arguments.option_flags()
    for words in ([spelled(option, value)], [settings.OPTIONS[option].flags[0], value]):
        try:
            found = arguments.parse(words, flags)
            policy.request(found.options, settings.COMMAND_LINE)
        except InvalidOption as error:
            assert str(error).isprintable()
            assert error.allowed


@given(words=st.lists(st.one_of(ANYTHING, st.sampled_from(["--", "-it", "-m", "--mount"]))))
def test_whatever_words_a_line_has_they_are_options_or_one_line(words: list[str]) -> None:
    try:
        arguments.parse(words, arguments.option_flags(), command=True)
    except InvalidOption as error:
        assert str(error).isprintable()


@given(line=st.text(max_size=80))
def test_whatever_line_a_magic_has_it_is_words_or_one_line(line: str) -> None:
    try:
        arguments.words(line)
    except InvalidOption as error:
        assert str(error).isprintable()


@given(text=st.one_of(st.text(max_size=80), ANYTHING.map(json.dumps)))
def test_whatever_a_kernelspec_holds_it_is_settings_or_one_line(text: str) -> None:
    if "\0" in text or any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        return  # no environment can hold it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.KERNELSPEC_VARIABLE, text)
        try:
            settings.of_kernelspec(settings.Settings("/nowhere"))
        except InvalidOption as error:
            assert str(error).isprintable()


# -- unknown names, two at once, wrong order ------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--memroy=1g", "host"], "did you mean `--memory`?"),
        (["run", "--privileged", "host"], "there is no such option"),
        (["run", "--memory"], "--memory SIZE"),
        (["run", "-m=", "host", "true"], "256m or 1.5g"),
        (["run", "--memory=1g", "--memory=2g", "host"], "given twice"),
        (["run"], "sandbox-kernel run [options] IMAGE"),
        (["run", "--image=scratch", "host", "true"], "`host` is one"),
        (["plan", "--image=scratch", "host"], "`host` is one"),
        (["plan", "--as", "root"], "command line, magic, notebook, kernelspec"),
        (["plan", "--format=yaml"], "table, json"),
        (["plan", "host", "scratch"], "sandbox-kernel plan"),
        (["install", "--memory", "banana"], "256m or 1.5g"),
        (["install", "--kernel-name=x"], "there is no such option"),
        (["install", "--cells", "--mode", "sideways"], "one of fresh"),
        (["install", "--mode", "fresh"], "`--cells` beside it"),
        (["install", "--name=../x"], "1 to 63 small letters"),
        (["install", "--user", "--sys-prefix"], "one place, not two"),
        (["uninstall", "nobody"], "the name of an installed kernel"),
        (["banana"], "no such command"),
        (["run\x1b[2J"], "no such command"),
    ],
)
def test_a_wrong_line_of_the_command_is_one_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Ways(tmp_path, capsys).complaint(*words)

    assert says in said
    assert said.isprintable()


@pytest.mark.parametrize("line", ["--memroy 1g", "'", "host scratch", "--in 1a", "--show all"])
def test_a_wrong_line_of_a_magic_is_one_line(line: str) -> None:
    assert raised(lambda: shell().run_cell_magic("container", line, "pass")).isprintable()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nope", "one of ps, inspect, plan"),
        ("plan --memory banana", "256m or 1.5g"),
        ("plan --memroy 1g", "did you mean `--memory`?"),
        ("ps extra", "%container ps"),
        ("rm", "%container rm"),
        ("'", "quotes that are closed"),
    ],
)
def test_a_wrong_subcommand_of_the_magic_is_one_line(line: str, says: str) -> None:
    said = raised(lambda: shell().run_line_magic("container", line))

    assert says in said
    assert said.isprintable()


def test_an_unknown_name_in_python_is_one_line_with_the_nearest() -> None:
    said = raised(lambda: sandbox_kernel.run("pass", memroy="1g"))

    assert said == "option `memroy`: `memroy` is not allowed: " + (
        "there is no such setting: did you mean `memory`?"
    )


# -- what lies in the file system -----------------------------------------------------------------


def test_a_source_that_can_t_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = Ways(tmp_path, capsys)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "line\nfeed")
    for source, says in [
        (f"{tmp_path}/loop", "symbolic link"),
        (f"{tmp_path}/gone", "No such file"),
        (f"{tmp_path}/nowhere", "No such file"),
        (f"{tmp_path}/line\nfeed", "control characters"),
        (f"{tmp_path}/{'x' * 256}", "too long"),
        ("/dev/null", "no device"),
    ]:
        said = ways.complaint("run", f"--mount=type=bind,source={source},target=/x", "host", "true")
        assert says in said
        assert "`--mount`" in said


def test_more_than_the_ceiling_is_refused_with_the_line_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = tmp_path / "sandbox-kernel" / "config.toml"
    own.parent.mkdir()
    own.write_text("[ceiling]\nmemory = '256m'\ncpus = 1\npids_limit = 64\ntimeout = '1m'\n")
    for line in ("--memory 1g", "--cpus 1.5", "--pids-limit 65", "--timeout none"):
        for act in (
            lambda: shell().run_cell_magic("container", line, "pass"),  # noqa: B023
            lambda: shell().run_line_magic("sandbox", line),  # noqa: B023
        ):
            with pytest.raises(NotAllowed) as caught:
                act()
            option, value = line.split()
            assert f"`{option}`" in str(caught.value)
            assert f"{own}:" in str(caught.value)
            assert value.rstrip("g") in str(caught.value) or value == "none"
    assert sandbox_kernel.engine.policy.plan(settings.MAGIC, memory="256m").memory == 256 << 20
