"""Where settings come from, in which order, and which files are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from traitlets.config import Config, Configurable

from sandbox_kernel import policy, settings
from sandbox_kernel.errors import InvalidOption, NotAllowed, StepFailed

MIB = 1 << 20


class Place:
    """A home and a project folder, both empty, that the settings are read from."""

    def __init__(self, root: Path) -> None:
        self.user = root / "config/sandbox-kernel/config.toml"
        self.jupyter = root / "jupyter/jupyter_sandbox_config.py"
        self.project = root / "project"
        for folder in (self.user.parent, self.jupyter.parent, self.project):
            folder.mkdir(parents=True)

    def load(self) -> settings.Settings:
        return settings.load(str(self.project))

    def plan(self, source: str = settings.MAGIC, **options: object) -> policy.ContainerPlan:
        return policy.plan(source, within=self.load(), **options)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(settings.KERNELSPEC_VARIABLE, raising=False)
    monkeypatch.delenv(settings.NOTEBOOK_VARIABLE, raising=False)
    return Place(tmp_path)


def test_every_source_is_read_and_the_later_wins(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = []
    place.jupyter.write_text("c.Sandbox.memory = '101m'\nc.Sandbox.pids_limit = 7\n")
    sources.append(place.plan())
    place.user.write_text("memory = '102m'\n")
    sources.append(place.plan())
    (place.project / "pyproject.toml").write_text("[tool.sandbox-kernel]\nmemory = '103m'\n")
    sources.append(place.plan())
    (place.project / "sandbox.toml").write_text("memory = '104m'\n")
    sources.append(place.plan())
    monkeypatch.setenv(settings.KERNELSPEC_VARIABLE, '{"memory": "105m"}')
    within = settings.of_kernelspec(place.load())
    sources.append(policy.allow(policy.request({}), within))
    within = within.plus(settings.NOTEBOOK, {"memory": "106m"})
    sources.append(policy.allow(policy.request({}), within))
    sources.append(policy.plan(within=within, memory="107m"))

    assert [plan.memory for plan in sources] == [number * MIB for number in range(101, 108)]
    assert [plan.sources["memory"] for plan in sources] == [
        f"config file {place.jupyter}",
        f"config file {place.user}",
        "pyproject.toml",
        "sandbox.toml",
        "kernelspec",
        "notebook",
        "magic",
    ]
    assert sources[-1].pids_limit == 7


def test_a_project_narrows_and_never_widens(place: Place) -> None:
    place.user.write_text("[ceiling]\nmemory = '100m'\n")
    project = place.project / "sandbox.toml"

    project.write_text("memory = '50m'\n")
    assert place.plan().memory == 50 * MIB
    project.write_text("memory = '200m'\n")
    with pytest.raises(NotAllowed) as caught:
        place.plan()

    assert f"{place.user}:2: ceiling.memory" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["network = 'host'", "cap_add = ['ALL']", "mount = ['/etc:/e']", "image = 'dir:/'",
     "security_opt = ['seccomp=unconfined']", "env = ['HOME']"],
)  # fmt: skip
def test_a_cloned_project_cannot_ask_for_what_widens(place: Place, text: str) -> None:
    (place.project / "sandbox.toml").write_text(text)

    with pytest.raises((NotAllowed, InvalidOption)):
        place.plan()


def test_ceilings_stand_in_the_users_file_only(place: Place) -> None:
    (place.project / "sandbox.toml").write_text("[ceiling]\nmemory = '100g'\n")

    with pytest.raises(InvalidOption, match="ceilings stand only in"):
        place.load()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("memory = 'banana'", 1, "256m or 1.5g"),
        ("# c\nmemory = -1", 2, "256m or 1.5g"),
        ("memory = true", 1, "256m or 1.5g"),
        ("memory = 1.5", 1, "256m or 1.5g"),
        ("cpus = nan", 1, "0.5 or 2"),
        ("cpus = inf", 1, "0.5 or 2"),
        ("cpus = 1e400", 1, "0.5 or 2"),
        ("pids_limit = 0", 1, "whole number"),
        ("pids_limit = 99999999999999999999", 1, "whole number"),
        ("read_only = 1", 1, "true or false"),
        ("memori = '1g'", 1, "did you mean `memory`"),
        ("memory = '1g'\nmemory = '2g'", 2, "twice"),
        ("pids_limit = 5\npids-limit = 6", 2, "twice"),
        ("memory = ", 1, "TOML"),
        ("a = {b = {c = 1}}", 1, "no such setting"),
        ("[ceiling]\nmemori = '1g'", 2, "did you mean `memory`"),
        ("[ceiling]\nmemory = 'x'", 2, "256m or 1.5g"),
        ("ceiling.memory = 'x'", 1, "256m or 1.5g"),
        ("[ceiling]\nmount_roots = ['relative']", 2, "absolute path"),
        ("mount = ['/nowhere']", 1, "SOURCE:TARGET"),
        ("[[mount]]\nsource = '/a'", 1, "SOURCE:TARGET"),
    ],
)
def test_a_bad_value_is_named_with_file_and_line(
    place: Place, text: str, line: int, says: str
) -> None:
    place.user.write_text(text)

    with pytest.raises(InvalidOption) as caught:
        place.load()

    assert f"{place.user}:{line}" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xef\xbb\xbfmemory = '1g'", "byte order mark"),
        (b"\xff\xfem\0", "byte order mark"),
        (b"memory = '\xff'", "UTF-8"),
        (b"a = " + b"[" * 100_000, "TOML"),
        (b"x" * ((1 << 20) + 1), "at most"),
        (b"a = 1" + b"0" * 10_000, "sandbox.toml"),
    ],
)
def test_a_file_that_is_no_text_of_ours_is_refused(place: Place, data: bytes, says: str) -> None:
    (place.project / "sandbox.toml").write_bytes(data)

    with pytest.raises(InvalidOption, match=says):
        place.load()


def test_a_file_that_others_can_write_is_refused(place: Place) -> None:
    for path in (place.project / "sandbox.toml", place.user, place.jupyter):
        path.write_text("")
        path.chmod(0o666)
        with pytest.raises(NotAllowed, match="chmod o-w"):
            place.load()
        path.unlink()


def test_a_file_of_another_user_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_away(path: Path) -> None:
        if os.getuid() == 0:
            os.chown(path, 4321, 4321)
        else:  # only root can give a file away; then it is us who are another user
            monkeypatch.setattr(os, "getuid", lambda: 4321)

    for path in (place.project / "sandbox.toml", place.user, place.jupyter):
        path.write_text("")
        give_away(path)
        with pytest.raises(NotAllowed, match="owns it"):
            place.load()
        path.unlink()
    pyproject = place.project / "pyproject.toml"
    pyproject.write_text("[project]\nname = 'x'\n")
    give_away(pyproject)
    assert place.load().layers == (), "somebody's project that says nothing to us is no concern"


def test_a_link_or_a_fifo_in_a_project_is_not_followed(place: Place, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password hunter2")
    link = place.project / "sandbox.toml"
    link.symlink_to(secret)
    with pytest.raises(InvalidOption) as caught:
        place.load()
    assert "hunter2" not in str(caught.value)
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(InvalidOption, match="regular file"):
        place.load()
    link.unlink()
    link.mkdir()
    with pytest.raises(InvalidOption, match=r"sandbox.toml.*regular file"):
        place.load()


def test_in_a_folder_that_was_removed_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StepFailed, match=r"working folder.*removed"):
        settings.load()


def test_python_in_a_project_is_never_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.project / "jupyter_sandbox_config.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(place.project)

    assert settings.load().layers == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("c.Sandbox.memory = 'banana'", "c.Sandbox.memory"),
        ("c.Sandbox.memori = '1g'", "did you mean"),
        ("c.Sandbocks.memory = '1g'", "c.SandboxRegistry or c.SandboxConda"),
        ("\n1/0\n", "py:2"),
        ("\n\nthis is no python\n", "py:3"),
    ],
)
def test_a_mistake_in_the_users_python_is_one_line(place: Place, text: str, says: str) -> None:
    place.jupyter.write_text(text)

    with pytest.raises(InvalidOption) as caught:
        place.load()

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_users_python_can_hold_ceilings_and_lists(place: Place) -> None:
    place.jupyter.write_text(
        "c.SandboxCeiling.memory = '100m'\nc.Sandbox.env.append('A=1')\nc.Sandbox.cpus = 0.5\n"
    )

    assert place.plan().env == (("A", "1"),)
    with pytest.raises(NotAllowed, match=r"c\.SandboxCeiling\.memory"):
        place.plan(memory="101m")


def test_a_change_of_a_file_is_seen_at_once(place: Place) -> None:
    place.user.write_text("pids_limit = 5\n")
    first = place.load()
    assert place.load() is first
    place.user.write_text("pids_limit = 66\n")
    assert place.plan().pids_limit == 66
    place.user.unlink()
    assert place.plan().pids_limit == 512


@pytest.mark.parametrize("text", ["[]", "{", '{"memory": "1g", "memory": "2g"}', "nonsense",
    '{"a": ' * 9999, '{"memori": "1g"}'])  # fmt: skip
def test_options_of_a_kernelspec_are_read_strictly(
    place: Place, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(settings.KERNELSPEC_VARIABLE, text)

    with pytest.raises(InvalidOption):
        settings.of_kernelspec(place.load())


def notebook(folder: Path, metadata: object) -> Path:
    path = folder / "work.ipynb"
    cell = {"cell_type": "code", "source": 'x = "sandbox_kernel"', "outputs": [], "metadata": {}}
    path.write_text(json.dumps({"cells": [cell], "metadata": metadata, "nbformat": 4}))
    return path


def test_a_notebook_can_say_what_it_needs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.user.write_text("[ceiling]\nmemory = '1g'\n")
    for named in (str(place.project / "work.ipynb"), "work.ipynb"):
        monkeypatch.setenv(settings.NOTEBOOK_VARIABLE, named)
        notebook(place.project, {"sandbox_kernel": {"memory": "256m", "env": {"A": "1"}}})
        within = settings.of_notebook(place.load())
        plan = policy.allow(policy.request({}), within)
        assert (plan.memory, plan.env) == (256 * MIB, (("A", "1"),))
        assert plan.sources["memory"] == settings.NOTEBOOK
        assert policy.plan(within=within, memory="64m").memory == 64 * MIB

        notebook(place.project, {"sandbox_kernel": {"memory": "2g"}})
        with pytest.raises(NotAllowed, match="at most 1 GiB"):
            policy.plan(within=settings.of_notebook(place.load()))


@pytest.mark.parametrize(
    "metadata",
    [{}, {"sandbox_kernel": None}, {"kernelspec": {"sandbox_kernel": {"memory": "banana"}}}, [], 1],
)
def test_a_notebook_that_says_nothing_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, metadata: object
) -> None:
    path = notebook(place.project, metadata)
    for named in (path, path.with_name("gone.ipynb"), place.project, "console-1", "/etc/passwd"):
        monkeypatch.setenv(settings.NOTEBOOK_VARIABLE, str(named))
        assert settings.of_notebook(place.load()) == place.load()


@pytest.mark.parametrize(
    "text",
    ['{"metadata": {"sandbox_kernel": {"memory": "banana"}}}',
     '{"metadata": {"sandbox_kernel": {"memroy": "1g"}}}',
     '{"metadata": {"sandbox_kernel": {"memory": "1g", "memory": "2g"}}}',
     '{"metadata": {"sandbox_kernel": {"ceiling": {"memory": "9g"}}}}',
     '{"metadata": {"sandbox_kernel": "1g"}}', '{"metadata": {"sandbox_kernel": ', "\udcff",
     '{"sandbox_kernel": ' * 9999],
)  # fmt: skip
def test_a_mistake_in_a_notebook_is_one_line_that_names_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = place.project / "work.ipynb"
    raw = text.encode(errors="surrogateescape")
    path.write_bytes(raw if b"sandbox_kernel" in raw else raw + b'"sandbox_kernel"')
    monkeypatch.setenv(settings.NOTEBOOK_VARIABLE, str(path))

    with pytest.raises(InvalidOption) as caught:
        settings.of_notebook(place.load())
    assert str(caught.value).startswith(f"option `{path}: metadata.sandbox_kernel")
    assert str(caught.value).isprintable()


def test_a_pipe_for_a_notebook_holds_nobody_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.NOTEBOOK_VARIABLE, "work.ipynb")
    for make in (os.mkfifo, os.mkdir):
        make(place.project / "work.ipynb")
        assert settings.of_notebook(place.load()) == place.load()
        (place.project / "work.ipynb").rename(place.project / make.__name__)


def test_every_setting_explains_itself() -> None:
    for name, option in (*settings.OPTIONS.items(), *settings.CEILINGS.items()):
        assert option.help.endswith("."), name
        assert option.name == name
        assert isinstance(option.also, tuple), name
    spellings = [flag for option in settings.OPTIONS.values() for flag in option.flags]
    assert len(spellings) == len(set(spellings))


def test_every_setting_is_a_trait_for_applications_of_jupyter() -> None:
    made = settings.traits(settings.Sandbox)
    assert issubclass(made, Configurable)
    found = made.class_traits(config=True)
    assert set(found) == set(settings.OPTIONS)
    assert {name: trait.help for name, trait in found.items()} == {
        name: option.help for name, option in settings.OPTIONS.items()
    }
    given = Config({"Sandbox": {"memory": "1g", "cap_add": ["net_raw"]}})
    one = made(config=given)
    assert one.memory == 1 << 30
    assert one.cap_add == ("CAP_NET_RAW",)
    assert one.cpus is None
    with pytest.raises(InvalidOption, match="memory"):
        made(config=Config({"Sandbox": {"memory": "much"}}))


def test_every_setting_is_a_field_of_the_plan() -> None:
    fields = set(policy.ContainerPlan._fields)

    made = {"sources", "asked", "seccomp_calls", "packet_sockets"}
    assert fields - made == set(settings.OPTIONS)


def test_home_is_not_needed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("/dev/null", "relative", ""):
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("XDG_CONFIG_HOME", "also/relative")
        monkeypatch.delenv("JUPYTER_CONFIG_DIR", raising=False)
        assert place.load().layers == ()
