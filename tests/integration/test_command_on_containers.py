"""The command on containers that are there: run detached, list, enter, change, stop, remove."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commands import COMMAND, command, detached, output_of

from sandbox_kernel import container, policy

pytestmark = pytest.mark.everybody


def rows(*words: str) -> dict[str, dict[str, object]]:
    return {row["id"]: row for row in json.loads(output_of("ps", "--format", "json", *words))}


def test_a_detached_container_outlives_the_command_and_is_listed_until_removed() -> None:
    with detached("sh", "-c", "read line || sleep 60") as made:
        assert rows()[made]["state"] == "running"
        assert made in output_of("ps", "--quiet").split()
        assert output_of("stop", "--time", "5s", made) == f"{made}\n"
        assert made not in rows()
        assert rows("--all")[made]["state"] == "ended"
        assert "ended: signal 15" in output_of("ps", "--all")
    assert made not in rows("--all")


@pytest.mark.whoever
def test_what_it_wrote_is_kept_stream_by_stream() -> None:
    with detached("sh", "-c", "echo out; echo error >&2; exit 3") as made:
        followed = command("logs", "--follow", made)
        assert (followed.stdout, followed.stderr) == ("out\n", "error\n")
        again = command("logs", made)
        assert (again.stdout, again.stderr) == ("out\n", "error\n")
        assert "ended: status 3" in output_of("ps", "--all")


@pytest.mark.whoever
def test_the_log_is_bounded_and_says_what_is_lost() -> None:
    with detached("sh", "-c", "yes 0123456 | head -c 3000000; echo; echo last") as made:
        followed = command("logs", "--follow", made)
        late = command("logs", made)
    assert followed.stdout.endswith("last\n")
    assert 900_000 < len(late.stdout) <= 1 << 20
    assert late.stdout.endswith("last\n")
    assert "bytes that came before are not kept" in late.stderr


def test_exec_runs_in_the_same_container() -> None:
    with detached("sleep", "60", options=("--hostname", "first")) as made:
        assert output_of("exec", made, "hostname") == "first\n"
        done = command("exec", "--interactive", "--env", "A=b", "--workdir", "/tmp", made,
            "sh", "-c", "cat; echo $A; pwd; exit 4", given="typed\n")  # fmt: skip
        assert done.stdout == "typed\nb\n/tmp\n"
        assert done.returncode == 4
        # it is still there afterwards, and the first program goes on
        assert output_of("exec", made, "cat", "/proc/1/comm") == "sandbox-init\n"
        assert command("exec", made, "/nonexistent").returncode == 127
        for name in ("/" + "x" * 3900, "/" + "\xe9" * 2000):  # longer than what is said of it
            done = command("exec", made, name)
            assert done.returncode == 126
            assert "File name too long" in done.stderr
        assert rows()[made]["state"] == "running"


def test_a_kept_container_keeps_its_files_between_programs() -> None:
    name = f"kept-{os.getpid()}"
    try:
        assert output_of("run", "--keep", "--name", name, "host", "sh", "-c", "echo a >f") == ""
        assert output_of("exec", name, "cat", "f") == "a\n"
        taken = command("run", "--detach", "--name", name, "host", "true")
        assert taken.returncode == 125
        assert f"option `--name`: `{name}`" in taken.stderr
        assert "one that is over" in command("rm", name).stderr
    finally:
        folder = container.match(name).folder
        assert output_of("rm", "--force", name) == f"{name}\n"
    deadline = time.monotonic() + 10
    while os.path.exists(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(folder)


@pytest.mark.root
def test_limits_are_shown_and_changed_live() -> None:
    with detached("sleep", "60", options=("--memory", "64m", "--pids-limit", "20")) as made:
        assert json.loads(output_of("limits", "--format", "json", made))["memory"] == 64 << 20
        after = output_of("limits", "--memory", "128m", made)
        assert after.splitlines()[1].split() == ["memory", "128", "MiB", "command", "line", "yes"]
        assert json.loads(output_of("inspect", made))[0]["limits"]["memory"] == 128 << 20
        assert json.loads(output_of("limits", "--format", "json", made))["pids_limit"] == 20
        refused = command("limits", "--storage-size", "1g", made)
        assert refused.returncode == 125
        assert "--storage-size" in refused.stderr


@pytest.mark.root
def test_top_shows_a_busy_one_against_its_limit() -> None:
    with detached("sh", "-c", "while :; do :; done", options=("--cpus", "0.25")) as made:
        (row,) = json.loads(output_of("top", "--format", "json", made))
        assert 0.15 < row["use"]["processors"] < 0.35
        assert row["use"]["throttled_seconds"] > 0
        assert "of 0.25" in output_of("top", made)


def test_inspect_says_what_is_in_force_and_where_it_came_from() -> None:
    with detached("sleep", "60", options=("--label", "who=me")) as made:
        (known,) = json.loads(output_of("inspect", made[:6]))
    assert known["id"] == made
    assert known["command"] == ["sleep", "60"]
    assert known["plan"]["options"]["label"] == [["who", "me"]]
    assert known["plan"]["sources"]["label"] == "command line"


def _watches(pid: int) -> bool:
    """Whether it waits for launchers to start."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(os.readlink(descriptor))
    return "anon_inode:inotify" in links


@pytest.mark.root
def test_events_wait_where_no_launcher_ever_was() -> None:
    empty = 'mount -t tmpfs -o mode=700 empty /run/sandbox-kernel && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", empty, "sh", *COMMAND, "events"]
    os.makedirs("/run/sandbox-kernel", mode=0o700, exist_ok=True)
    listening = subprocess.Popen(words)
    try:
        while not _watches(listening.pid):
            assert listening.poll() is None
            time.sleep(0.01)
    finally:
        listening.send_signal(signal.SIGINT)
        assert listening.wait(10) == 130


def test_events_tell_of_containers_of_any_program_as_they_happen() -> None:
    listening = subprocess.Popen([*COMMAND, "events", "--format", "json"], stdout=subprocess.PIPE)
    try:
        assert listening.stdout is not None
        while not _watches(listening.pid):  # what was before it listened is not for it to tell
            assert listening.poll() is None
            time.sleep(0.01)
        with detached("sh", "-c", "exit 5") as made:
            output_of("logs", "--follow", made)
            seen = []
            for line in listening.stdout:
                event = json.loads(line)
                if event["id"] == made:
                    seen.append(event)
                    if event["kind"] == "ended":
                        break
    finally:
        listening.send_signal(signal.SIGINT)
        assert listening.wait(10) == 130
    assert [event["kind"] for event in seen] == ["created", "started", "exited", "ended"]
    assert seen[2]["status"] == 5


def test_a_program_that_is_not_there_leaves_nothing() -> None:
    before = rows("--all").keys()
    done = command("run", "--detach", "host", "/nonexistent")
    assert done.returncode == 127
    assert done.stdout == ""
    assert "execute `/nonexistent`" in done.stderr
    assert rows("--all").keys() == before


def test_a_program_ignores_no_signal_because_its_caller_does() -> None:
    """A shell starts what runs in the background so, and nohup(1)."""
    ignoring = ("/bin/sh", "-c", 'trap "" HUP QUIT USR1; exec "$@"', "sh")
    words = (*ignoring, *COMMAND, "run", "host", "grep", "SigIgn", "/proc/self/status")
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout

    ignored = int(said.split()[1], 16)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        assert not ignored >> number - 1 & 1, number


@pytest.mark.whoever
def test_an_unknown_container_is_one_line_that_names_it() -> None:
    for words in (("logs",), ("stop",), ("rm",), ("inspect",), ("top",), ("limits",), ("exec",)):
        done = command(*words, "no-such-one", *(("true",) if words == ("exec",) else ()))
        assert done.returncode == 125
        assert done.stderr.count("\n") == 1
        assert "`no-such-one`" in done.stderr


def test_a_launcher_that_is_killed_takes_its_containers_and_the_next_start_sweeps() -> None:
    made = output_of("run", "--detach", "host", "sleep", "60").strip()
    found = container.match(made)
    pid = found.pid
    (launcher,) = [
        int(each)
        for each in os.listdir("/proc")
        if each.isdigit() and os.path.basename(found.folder) in _words(each) and int(each) != pid
    ]
    os.kill(launcher, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    assert made not in rows("--all")
    assert output_of("run", "host", "echo", "next") == "next\n"
    assert not os.path.exists(found.folder)


def _words(pid: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    "plan", [{}, {"options": {"of_the_future": 1}, "sources": {}, "asked": []}]
)
def test_a_container_of_another_version_can_be_looked_at_and_ended(
    plan: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same messages, but its program wrote the plan in another form."""
    monkeypatch.setattr(policy, "record", lambda _: plan)
    held = container.Container.create(policy.plan(memory="64m"))
    with held:
        assert held.id in output_of("ps", "--quiet").split()
        assert held.id in output_of("top")
        assert output_of("rm", "--force", held.id) == f"{held.id}\n"
        assert held.id not in output_of("ps", "--quiet").split()
