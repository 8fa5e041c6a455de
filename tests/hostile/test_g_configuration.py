"""Corpus group G: settings, names, environments and paths that somebody hostile chose.

Each test has the number of its entry. The project folder is what somebody cloned; the canaries of
the host are compared after each test, and what starts nothing is looked at for that as well.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from sandbox_kernel import policy, settings
from sandbox_kernel.container import Container
from sandbox_kernel.errors import InvalidOption, NotAllowed
from sandbox_kernel.runtime import client, state

pytestmark = pytest.mark.everybody

TESTS = str(Path(__file__).parents[1])
COMMAND = str(Path(sys.executable).with_name("sandbox-kernel"))
MODULES = ("sandbox_kernel", "magics", "json", "socket", "traitlets", "zmq", "sitecustomize",
    "usercustomize", "jupyter_sandbox_config", "ipython_config", "numpy")  # fmt: skip
SOURCES_OF_OTHERS = (settings.MAGIC, settings.NOTEBOOK, settings.KERNELSPEC)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, as somebody else filled it; a home with no configuration."""
    folder, home = tmp_path / "project", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("JUPYTER_CONFIG_DIR", raising=False)
    return folder


class Said(NamedTuple):
    """What the command printed, and its status."""

    status: int
    out: str
    err: str

    @property
    def is_refused(self) -> bool:
        """One line of ours, nothing else."""
        one_line = self.err.count("\n") == 1 and self.err.startswith("sandbox-kernel: ")
        return self.status == 125 and self.out == "" and one_line


def command(
    *words: str,
    environment: dict[str, str | None] | None = None,
    before: Callable[[], object] | None = None,
    close: bool = False,
) -> Said:
    """`sandbox-kernel WORDS` in the working folder, with a changed environment."""
    changed = {**os.environ, **(environment or {})}
    argv = [sys.executable, COMMAND, *words]
    if close:
        closing = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
        argv = [sys.executable, "-c", closing, *argv]
    done = subprocess.run(
        argv,
        env={name: value for name, value in changed.items() if value is not None},
        preexec_fn=before,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def poisoned(folder: Path, canary: Path) -> None:
    """Modules that tell when they are imported, in every way in which a folder can be searched."""
    text = f"open({str(canary)!r}, 'a').write(__file__ + '\\n')\nraise SystemExit('poisoned')\n"
    for name in MODULES:
        (folder / f"{name}.py").write_text(text)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)


# 82


WIDE = (
    "/:/host", "/etc:/x", "/proc/1/root:/x", "~/x:/x", "$(id):/x", "`id`:/x", "../..:/x",
    "./out:/x", "./inner/../..:/x", "./inner:/proc", "./inner:/proc/1/x", "./inner:/sys/x",
    "./inner:/dev/shm", "./inner:/", "./inner:/a/..", "./inner:/x,suid", "./inner:/x:ro,dev",
    "./inner:/x\n/y", "./inner", ":/x", "./inner:", "type=bind,src=/,target=/x",
    "type=bind,source=./inner,target=/x,bind-propagation=shared",
    "type=bind,source=./inner,target=/x,source=/etc", "type=proc,target=/x",
    '"type=bind","source=./inner","target=/x","dev"',
)  # fmt: skip


@pytest.mark.parametrize("mount", WIDE)
def test_g82_a_mount_that_leads_out_is_refused(project: Path, mount: str) -> None:
    (project / "inner").mkdir()
    (project / "out").symlink_to("/etc")

    for source in SOURCES_OF_OTHERS:
        with pytest.raises((InvalidOption, NotAllowed)) as caught:
            policy.plan(source, mount=[mount])
        assert "mount" in str(caught.value)
        assert str(caught.value).isprintable()


def test_g82_a_mount_of_the_project_itself_is_there(project: Path) -> None:
    (project / "inner").mkdir()
    (project / "inner" / "note").write_text("hi")

    plan = policy.plan(settings.MAGIC, mount=["./inner:/x:ro"], memory="64m")
    with Container.create(plan) as held:
        seen = Path(f"/proc/{held.pid}/root/x/note")
        assert os.geteuid() != 0 or seen.read_text() == "hi"
        assert plan.mount[0].source == str(project / "inner")


@pytest.mark.parametrize("target", ["/x/link/new", "/x/link", "/x/up/new", "/x/magic/new"])
def test_g82_a_target_through_a_link_is_refused(project: Path, target: str) -> None:
    """Code in an earlier container could have made the links in a folder that is mounted."""
    shared, outside = project / "shared", project / "outside"
    shared.mkdir()
    outside.mkdir()
    (shared / "link").symlink_to("/etc")
    (shared / "up").symlink_to("../../../../../../tmp")
    (shared / "magic").symlink_to("/proc/self/root")

    said = command("run", "-v", f"{shared}:/x", "-v", f"{outside}:{target}", "host", "true")

    assert said.is_refused, said
    assert f"`--mount`: `{target}`" in said.err
    assert "link" in said.err
    assert sorted(os.listdir(shared)) == ["link", "magic", "up"]
    assert os.listdir(outside) == []


@pytest.mark.cve("CVE-2025-24965")
def test_g82_a_target_through_a_link_of_the_image_is_refused(project: Path) -> None:
    image, outside = project / "image", project / "outside"
    for folder in (image / "etc", outside):
        folder.mkdir(parents=True)
    (image / "data").symlink_to(outside)
    (image / "up").symlink_to("../../../../../../etc")
    for target in ("/data/new", "/up/new"):
        said = command("run", "-v", f"{image}/etc:{target}", f"dir:{image}", "/x")
        assert said.is_refused, said
        assert f"`--mount`: `{target}`" in said.err
    assert os.listdir(outside) == []


# 83


@pytest.mark.whoever
@pytest.mark.parametrize(
    ("option", "value"),
    [("network", "host"), ("cap_add", ["SYS_ADMIN"]), ("cap_add", ["ALL"]), ("memory", "2g"),
     ("memory_swap", "2g"), ("pids_limit", 1000), ("cpus", 1.5), ("timeout", "none"),
     ("storage_size", "2g"), ("security_opt", ["seccomp=unconfined"]), ("image", "dir:/"),
     ("mount", ["/etc:/x"]), ("env", ["HOME"])],
)  # fmt: skip
def test_g83_only_the_user_widens(project: Path, option: str, value: object) -> None:
    own = Path.home() / ".config/sandbox-kernel/config.toml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "[ceiling]\nmemory = '1g'\npids_limit = 64\ncpus = 1\ntimeout = 60\nstorage_size = '1g'\n"
    )
    for source in SOURCES_OF_OTHERS:
        with pytest.raises((NotAllowed, InvalidOption)) as caught:
            policy.plan(source, **{option: value})
        assert str(caught.value).isprintable()

    text = json.dumps(value)
    (project / "sandbox.toml").write_text(f"{option} = {text}\n")
    said = command("run", "host", "true")
    assert said.is_refused, said


def test_g83_a_project_that_asks_for_less_is_heard(project: Path) -> None:
    (project / "sandbox.toml").write_text("memory = '64m'\n")
    assert command("run", "host", "true").status == 0


@pytest.mark.whoever
@pytest.mark.parametrize(
    "option", ["privileged", "devices", "pid", "ipc", "userns", "cgroup_parent"]
)
def test_g83_there_is_no_word_for_a_privileged_container(project: Path, option: str) -> None:
    with pytest.raises(InvalidOption, match="there is no such setting"):
        policy.plan(settings.PROGRAM, **{option: "host"})
    (project / "sandbox.toml").write_text(f"{option} = true\n")
    assert command("run", "host", "true").is_refused


# 84


@pytest.mark.cve("CVE-2022-21699", "CVE-2022-39286")
def test_g84_nothing_of_the_notebooks_folder_is_code(project: Path, tmp_path: Path) -> None:
    canary = tmp_path / "imported"
    poisoned(project, canary)
    (project / "x.pth").write_text(f"import os; open({str(canary)!r}, 'a').write('pth')\n")
    (project / "kernel.json").write_text("{}")

    assert command("run", "host", "echo", "hi") == (0, "hi\n", "")
    code = (
        f"import sys; sys.path.append({TESTS!r}); import kernels\n"
        "with kernels.started() as kernel:\n"
        "    _, outputs = kernel.run('import json, numpy; print(6 * 7)')\n"
        "print(kernels.text_of(outputs))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONSAFEPATH": "1"},  # as the installed kernelspec says
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "42\n\n", done.stderr
    assert not canary.exists(), canary.read_text()


def test_g84_the_kernelspec_keeps_the_folder_off_the_path(project: Path) -> None:
    assert command("install", "--prefix", str(project)).status == 0
    spec = json.loads((project / "share/jupyter/kernels/sandbox-python3/kernel.json").read_text())
    assert spec["env"]["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize("name", ["sandbox.toml", "config.toml", "jupyter_sandbox_config.py"])
def test_g84_a_file_that_others_can_write_is_refused(project: Path, name: str) -> None:
    folders = {"sandbox.toml": project, "config.toml": Path.home() / ".config/sandbox-kernel"}
    file = folders.get(name, Path.home() / ".jupyter") / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    assert command("run", "host", "true").status == 0
    file.chmod(0o666)

    said = command("run", "host", "true")

    assert said.is_refused, said
    assert "everybody can write it" in said.err
    assert str(file) in said.err


def test_g84_a_settings_file_that_is_a_link_or_a_pipe_is_refused(project: Path) -> None:
    file = project / "sandbox.toml"
    file.symlink_to("/etc/shadow")
    assert command("run", "host", "true").is_refused
    file.unlink()
    os.mkfifo(file)
    assert command("run", "host", "true").is_refused


# 85


@pytest.mark.whoever
@pytest.mark.parametrize(
    ("text", "line"),
    [(b"memory = -1", 1), (b"\n\nmemory = 0", 3), (b"cpus = nan", 1), (b"cpus = inf", 1),
     (b"cpus = 1e400", 1), (b"memory = '10 gigs'", 1), (b"memory = 18446744073709551616", 1),
     (b"pids_limit = true", 1), (b"#\nprivileged = true", 2), (b"memory='1g'\nmemory='2g'", 2),
     (b"memory='1g'\n'memory'='2g'", 2), (b"\xef\xbb\xbfmemory='1g'", 1),
     (b"\xff\xfem\0", 1), (b"hostname = '\xff'", 1), (b"a = " + b"[" * 3000, 0),
     (b"x = '" + b"x" * (1 << 20) + b"'", 0), (b"[ceiling]\nmemory = '9g'", 1),
     (b"memory = &a 1", 1), (b"env = {PATH = '/x', PATH = '/y'}", 1)],
    ids=lambda value: str(value)[:32],
)  # fmt: skip
def test_g85_a_wrong_value_in_a_file_is_named_with_its_line(
    project: Path, text: bytes, line: int
) -> None:
    (project / "sandbox.toml").write_bytes(text)

    said = command("run", "host", "true")

    assert said.is_refused, said
    assert f"{project}/sandbox.toml" + (f":{line}" if line else "") in said.err
    assert len(said.err) < 1000


# 86


NAMES = ("--help", "-v/:/x", "../x", ".", "..", "", "x" * 10_000, "a/b", "a b", "a\nb", "a\0b",
    "n\N{CYRILLIC SMALL LETTER A}me", "\N{RIGHT-TO-LEFT OVERRIDE}x", "name ", "$x")  # fmt: skip


@pytest.mark.whoever
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_g86_a_name_that_is_none_is_refused(project: Path, name: str) -> None:
    for option in ("name", "hostname"):
        with pytest.raises(InvalidOption):
            policy.plan(settings.PROGRAM, **{option: name})
    if "\0" not in name:
        said = command("run", f"--name={name}", "host", "true")
        assert said.is_refused, said
        assert command("uninstall", "--", name).is_refused
        said = command("install", "--prefix", str(project), f"--name={name}")
        assert said.is_refused, said
    assert os.listdir(project) == []


@pytest.mark.whoever
def test_g86_words_of_the_program_are_not_options(project: Path) -> None:
    assert command("run", "host", "echo", "--help", "-v", "/:/x").out == "--help -v /:/x\n"
    assert command("run", "--", "host", "echo", "--", "-m").out == "-- -m\n"
    assert command("run", "--", "--help", "true").is_refused


# 87


def _closed_limit(number: int, most: int) -> Callable[[], None]:
    def apply() -> None:
        resource.setrlimit(number, (most, most))

    return apply


@pytest.mark.parametrize(
    "environment",
    [{"HOME": "/dev/null"}, {"HOME": None}, {"HOME": "relative"}, {"HOME": "/nowhere"},
     {"TMPDIR": "/nowhere"}, {"TMPDIR": "."}, {"PATH": ""}, {"PATH": None}, {"LANG": "xx_XX.KOI8"},
     {"XDG_CONFIG_HOME": "relative"}, {"LC_ALL": "C"},
     {"LD_LIBRARY_PATH": "."}, {"GCONV_PATH": "."}, {"LD_AUDIT": ""}, {"TERM": "\x1b[2J"},
     {"COLUMNS": "-1"}, {"SANDBOX_KERNEL_OPTIONS": "banana"}],
    ids=str,
)  # fmt: skip
def test_g87_a_strange_environment_changes_nothing(
    project: Path, environment: dict[str, str | None]
) -> None:
    said = command("run", "host", "/usr/bin/env", environment=environment)

    assert said.status == 0, said
    assert said.err == ""
    inside = dict(line.partition("=")[::2] for line in said.out.splitlines())
    assert inside["HOME"] == "/home/sandbox"
    assert inside.keys() <= {"PATH", "HOME", "LANG", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV",
        "HOSTNAME", "TERM"}  # fmt: skip
    assert inside["PATH"].startswith("/")


@pytest.mark.cve("CVE-2025-53000")
def test_g87_helpers_are_never_looked_for_in_the_folder(project: Path, tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    for name in ("newuidmap", "newgidmap", "mount", "runc", "ip", "nft", "python3", "sh", "env"):
        (project / name).write_text(f"#!/bin/sh\n/usr/bin/touch {canary}\nexit 1\n")
        (project / name).chmod(0o755)

    path = f".:{project}:{os.environ['PATH']}"
    said = command("run", "host", "/bin/echo", "hi", environment={"PATH": path})

    assert said == (0, "hi\n", "")
    assert not canary.exists()


@pytest.mark.cve("CVE-2021-21261")
def test_g87_the_launcher_gets_nothing_of_the_environment(project: Path, tmp_path: Path) -> None:
    canary = tmp_path / "imported"
    code = (
        "import os\n"
        "from sandbox_kernel import policy\n"
        "from sandbox_kernel.container import Container\n"
        "from sandbox_kernel.runtime import client\n"
        f"os.environ['PYTHONPATH'] = {str(project)!r}\n"
        "os.environ['SECRET_TOKEN'] = 'canary-token'\n"
        "os.environ['LD_PRELOAD'] = './evil.so'\n"
        "with Container.create(policy.plan()) as held:\n"
        "    for pid in (client.shared().pid, held.pid):\n"
        "        print(open(f'/proc/{pid}/environ').read().replace(chr(0), ' '))\n"
        "        print(os.readlink(f'/proc/{pid}/cwd') if os.geteuid() == 0 else '/')\n"
    )
    poisoned(project, canary)

    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    # Pid 1 of a container is not dumpable: only root reads its environment.
    lines = done.stdout.splitlines()
    assert lines[:1], done.stderr
    for line in lines[::2]:
        names = {word.partition("=")[0] for word in line.split()}
        assert names <= {"PATH", "LC_ALL", "XDG_RUNTIME_DIR"}, names
    assert set(lines[1::2]) == {"/"}
    assert not canary.exists(), canary.read_text()


def test_g87_with_umask_0_nothing_of_ours_is_open_to_others(project: Path) -> None:
    before = os.umask(0)
    try:
        launcher = client.Launcher()
        with Container.create(policy.plan(), launcher=launcher):
            folder = Path(state.runtime_folder())
            mine = folder / "launchers" / launcher.name
            paths = [folder, folder / "launchers", mine, *mine.rglob("*")]
            modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in paths}
    finally:
        os.umask(before)
        launcher.close()

    assert len(modes) > 3
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_g87_with_umask_0_a_file_inside_has_the_usual_mode(project: Path) -> None:
    code = "umask; touch x; stat -c %a x"
    said = command("run", "host", "/bin/sh", "-c", code, before=lambda: os.umask(0))

    assert said == (0, "0022\n644\n", "")


def test_g87_closed_standard_descriptors_become_no_files_of_ours(project: Path) -> None:
    (project / "out").write_text("")
    said = command(
        "run", "-v", "./out:/out", "host", "/bin/sh", "-c",
        "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> /\\1 /p' > /out", close=True,
    )  # fmt: skip

    assert said.status == 0, said
    opened = dict(line.split(" ", 1) for line in (project / "out").read_text().splitlines())
    assert opened.keys() <= {"0", "1", "2", "3"}
    assert all("sandbox-kernel" not in target for target in opened.values())


@pytest.mark.parametrize(
    ("number", "most"),
    [(resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 12), (resource.RLIMIT_NOFILE, 24),
     (resource.RLIMIT_MEMLOCK, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_SIGPENDING, 0)],
)  # fmt: skip
def test_g87_small_resource_limits_end_cleanly(project: Path, number: int, most: int) -> None:
    said = command("run", "host", "echo", "hi", before=_closed_limit(number, most))

    assert "Traceback" not in said.err, said
    assert said == (0, "hi\n", "") or (said.status == 125 and said.err), said
    assert said.status != -signal.SIGXFSZ


# 88


PLACES = ("with space", "a:b", "a,b", "a\\b", "a%sb", 'a"b', "a'b", "-v", "a=b", "\N{SNOWMAN}",
    "a;b", "a$b", "upperdir=x,workdir=y", "x" * 255)  # fmt: skip


@pytest.mark.parametrize("name", PLACES, ids=lambda name: name[:20])
def test_g88_a_strange_path_is_that_path_and_no_option(project: Path, name: str) -> None:
    image = project / name
    (image / "bin").mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", image / "bin/cat")
    (image / "marker").write_text("the right one")
    for decoy in {part for part in name.replace(",", ":").split(":") if part != name}:
        (project / decoy).mkdir(exist_ok=True)
        (project / decoy / "marker").write_text("a decoy")
    field = f"source={image}".replace('"', '""')

    said = command(
        "run", "--mount", f'type=bind,"{field}",target=/m/x,readonly',
        f"dir:{image}", "/bin/cat", "/marker", "/m/x/marker",
    )  # fmt: skip

    assert said == (0, "the right onethe right one", ""), said


@pytest.mark.whoever
def test_g88_a_line_feed_in_a_path_is_refused(project: Path) -> None:
    (project / "a\nb").mkdir()
    (project / "link").symlink_to("a\nb")
    for words in (["--mount", f"type=bind,source={project}/a\nb,target=/x", "host"],
                  ["-v", f"{project}/link:/x", "host"],
                  [f"dir:{project}/a\nb"]):  # fmt: skip
        said = command("run", *words, "true")
        assert said.is_refused, said


def test_g88_a_path_of_four_thousand_bytes_works_or_is_refused(project: Path) -> None:
    deep = "/".join(["d" * 200] * 18)
    at = os.open(project, os.O_RDONLY)
    for part in deep.split("/"):
        os.mkdir(part, dir_fd=at)
        inner = os.open(part, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    with open(os.open("marker", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=at), "w") as file:
        file.write("deep")
    os.close(at)

    said = command("run", "-v", f"{project}/{deep}:/x:ro", "host", "cat", "/x/marker")
    assert said == (0, "deep", "") or said.is_refused, said
    said = command("run", "-v", f"{project}:/{deep}", "host", "true")
    assert said.status == 0 or said.is_refused, said
    assert command("run", "-v", f"{project}/{'y' * 4096}:/x", "host", "true").is_refused
