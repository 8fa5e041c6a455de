"""`sandbox-kernel net` and `capture`, and the magics of the same names: what is shown is true."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND, output_of
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from magics import live
from sandbox_kernel.cli import main
from sandbox_kernel.network import capture, client

pytestmark = pytest.mark.everybody
SERVER = ("python3", "-m", "http.server", "8080")
TALK = """
import urllib.request
print(urllib.request.urlopen("http://shown-web:8080/", timeout=10).status)
for url in ("http://nobody.example/", "http://9.9.9.9/"):
    try:
        urllib.request.urlopen(url, timeout=10)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A server in a network, by its name."""
    options = ("--detach", "--network", "shown", "--name", "shown-web", "--wait-port", "8080")
    output_of("run", *options, "host", *SERVER)
    output_of("exec", "shown-web", "true")  # from now on there is who forks for `exec`
    yield "shown-web"
    output_of("rm", "--force", "shown-web")
    client.stop()


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a verb prints, in this process."""
    capsys.readouterr()
    assert main.main(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def talk() -> None:
    assert output_of("run", "--network", "shown", "host", "python3", "-c", TALK) == "200\n"


def test_networks_are_made_joined_left_and_removed(
    web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "net", "create", "second") == "second\n"
    interface, address = said(capsys, "net", "connect", "second", web).split()
    (facts,) = json.loads(said(capsys, "net", "inspect", "second"))
    inside = output_of("exec", web, "cat", "/proc/net/dev")
    refused = main.main(["net", "rm", "second"])
    why = capsys.readouterr().err
    said(capsys, "net", "disconnect", "second", web)
    listed = said(capsys, "net", "ls")

    assert (interface, facts["kept"], facts["outside"]) == ("eth1", True, False)
    assert [each["address"] for each in facts["containers"].values()] == [address]
    assert "eth1:" in inside
    assert refused == 125
    assert "containers are in it: shown-web" in why
    assert {line.split()[0] for line in listed.splitlines()} >= {"shown", "second"}
    assert "eth1:" not in output_of("exec", web, "cat", "/proc/net/dev")
    assert said(capsys, "net", "rm", "second") == "second\n"
    assert "second" not in said(capsys, "net", "ls")


def test_a_drop_is_told_as_it_happens(web: str) -> None:
    watching = subprocess.Popen(
        [*COMMAND, "net", "watch", "--format", "json"], stdout=subprocess.PIPE, text=True
    )
    with watching:
        try:
            output_of("run", "--network", "shown", "host", "python3", "-c", TALK)
            assert watching.stdout
            told = (json.loads(line) for line in watching.stdout)
            drop = next(each for each in told if each["destination"] == "9.9.9.9")
        finally:
            watching.terminate()

    assert (drop["protocol"], drop["port"], drop["reason"]) == ("tcp", 80, "no-way-out")


def test_what_is_shown_of_a_container_is_what_the_kernel_has(
    web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    talk()
    facts = json.loads(said(capsys, "net", "show", "--format", "json", web))
    table = said(capsys, "net", "show", "--rules", web)

    (link,) = facts["networks"]
    (eth0,) = [each for each in facts["inside"]["links"] if each["name"] == "eth0"]
    inside = output_of(
        "exec", web, "sh", "-c", "cat /sys/class/net/eth0/address; cat /proc/net/arp"
    )
    assert eth0["mac"] == link["mac"] == inside.splitlines()[0]
    assert eth0["addresses"][0].split("/")[0] == link["address"]
    assert eth0["received_packets"] > 0
    listening = [each for each in facts["inside"]["connections"] if each["state"] == "listen"]
    assert [each["local_port"] for each in listening] == [8080]
    assert {"to": "default", "via": link["gateway"], "link": "eth0"} in facts["inside"]["routes"]
    assert any(rule["packets"] for rule in facts["rules"])
    for text in ("connections:", "names asked for:", "dropped", "log as `spoofed`", link["mac"]):
        assert text in table


def test_a_link_is_made_slow_and_what_is_not_named_stays(
    web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "net", "change", web, "--bandwidth", "900mbit")
    (changed,) = [json.loads(said(capsys, "net", "show", "--format", "json", web))]
    refused = main.main(["net", "change", web, "--bandwidth", "1bit"])

    assert changed["shape"]["bandwidth"] == 900_000_000
    assert {each["queueing"] for each in changed["inside"]["links"]} == {"noqueue", "tbf"}
    assert refused == 125
    assert "option `--bandwidth`" in capsys.readouterr().err


def test_a_capture_has_the_packets_of_its_container_and_nobody_elses(
    web: str, tmp_path: Path
) -> None:
    file = tmp_path / "packets.pcap"
    words = ("capture", "--format", "json", "--time", "30s", "--count", "12", "--file", str(file))
    taking = subprocess.Popen([*COMMAND, *words, web], stdout=subprocess.PIPE, text=True)
    with taking:
        deadline = time.monotonic() + 20
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        while taking.poll() is None and time.monotonic() < deadline:
            talk()
        assert taking.stdout is not None
        told = [json.loads(line) for line in taking.stdout]

    assert len(told) == 12
    assert any(packet["protocol"] == "tcp" and packet["port"] == 8080 for packet in told)
    frames = list(capture.read_file(file.read_bytes()))
    assert [capture.dissect(frame).says for frame in frames] == [each["says"] for each in told]
    assert file.stat().st_mode & 0o777 == 0o600
    again = subprocess.run(
        [*COMMAND, "capture", "--time", "1ms", "--file", str(file), web],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 125
    assert "File exists" in again.stderr


WRONG: list[tuple[list[str], str]] = [
    (["net", "make"], "one of ls, create"),
    (["net", "create"], "sandbox-kernel net ls"),
    (["net", "create", "a b"], "option `--network`"),
    (["net", "create", "bridge"], "bridge"),
    (["net", "create", "host"], "option `--network`"),
    (["net", "inspect", "nothing-there"], "there is no such network"),
    (["net", "show", "nobody-there"], "no container of yours"),
    (["net", "change", "shown-web"], "--disallow with it"),
    (["net", "change", "shown-web", "--allow", "a.org"], "option `--allow`"),
    (["net", "change", "shown-web", "--bandwidth", "fast"], "a rate such as 10mbit"),
    (["net", "ls", "--allow", "a.org"], "only with `net change`"),
    (["net", "ls", "--rules"], "only with `net show`"),
    (["net", "connect", "bad/name", "shown-web"], "option `--network`"),
    (["net", "disconnect", "other", "shown-web"], "not in network other"),
    (["capture", "shown-web", "--count", "0"], "option `--count`"),
    (["capture", "shown-web", "--time", "soon"], "option `--time`"),
    (["capture", "nobody-there"], "no container of yours"),
]


@pytest.mark.whoever
def test_a_wrong_word_is_one_line_that_says_what_is_allowed(
    web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, why in WRONG:
        assert main.main(words) == 125
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert why in captured.err


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A shell whose front end shows HTML."""
    made = InteractiveShell.instance()
    made.run_line_magic("load_ext", "sandbox_kernel")
    monkeypatch.setattr(live, "in_a_notebook", lambda: True)
    yield made
    made.find_line_magic("container").__self__.notebook.close()
    InteractiveShell.clear_instance()


def test_a_notebook_shows_facts_and_packets_with_a_picture_of_who_talks(
    web: str, shell: InteractiveShell
) -> None:
    with capture_output() as shown:
        assert shell.run_cell(f"%container net {web}").success
    (facts,) = [output.data for output in shown.outputs]
    assert "shown-web" in facts["text/html"]
    assert "<summary>connections</summary>" in facts["text/html"]

    assert shell.run_cell(f"%container capture {web} --background").success
    taken = shell.user_ns["_capture"]
    talk()
    with capture_output() as shown:
        assert shell.run_cell("%container capture --stop").success
    (packets,) = [output.data for output in shown.outputs]

    assert taken.done
    assert len(taken.packets) > 5
    assert "<svg" in packets["text/html"]
    assert ">shown-web<" in packets["text/html"]
    assert "tcp" in packets["text/plain"]
    refused = shell.run_cell(f"%container capture {web}").error_in_exec
    assert "a cell has to end" in str(refused)
