"""The OCI command line: each action of rules for system calls, their flags, and who is asked."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from awaiting import until
from injected import STRACE
from oci_bundles import Bundle

from sandbox_kernel.linux import seccomp_notify

SECONDS = 10.0

SIGSYS = 128 + 31
METADATA = "for the one who answers"
# struct seccomp_notif_resp { __u64 id; __s64 val; __s32 error; __u32 flags; }
RESPONSE = struct.Struct("=QqiI")


def asked_to_name(bundle: Bundle, **rule: Any) -> dict[str, Any]:
    """A container that gives itself another name, for which there is a rule, and tells the end."""
    config = bundle.config("sh", "-c", "/bin/hostname other; echo $?; hostname")
    config["process"]["capabilities"] = {
        kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")
    }
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sethostname"], **rule}],
    }
    return config


@pytest.mark.parametrize(
    ("action", "number", "status", "name", "said"),
    [
        ("SCMP_ACT_ALLOW", None, 0, "other", ""),
        ("SCMP_ACT_LOG", None, 0, "other", ""),
        ("SCMP_ACT_ERRNO", None, 1, "inside", "not permitted"),
        ("SCMP_ACT_ERRNO", errno.EXDEV, 1, "inside", "cross-device"),
        ("SCMP_ACT_TRACE", None, 1, "inside", "not implemented"),
        ("SCMP_ACT_TRACE", errno.EXDEV, 1, "inside", "not implemented"),  # nobody traces it
        ("SCMP_ACT_TRAP", None, SIGSYS, "inside", "Bad system call"),
        ("SCMP_ACT_KILL", None, SIGSYS, "inside", "Bad system call"),
        ("SCMP_ACT_KILL_THREAD", None, SIGSYS, "inside", "Bad system call"),
        ("SCMP_ACT_KILL_PROCESS", None, SIGSYS, "inside", "Bad system call"),
    ],
)
@pytest.mark.parametrize("quiet", [True, False])
def test_each_action_does_what_it_says(
    bundle: Bundle, action: str, number: int | None, status: int, name: str, said: str, quiet: bool
) -> None:
    rule = {"action": action} if number is None else {"action": action, "errnoRet": number}
    config = asked_to_name(bundle, **rule)
    config["process"]["noNewPrivileges"] = quiet
    done = bundle.run(config)
    assert done.stdout.split() == [str(status), name], done.stderr
    assert said in done.stderr


class Answering:
    """Who is asked: it answers each call by `error`, and 0 lets the caller believe that it was."""

    def __init__(self, path: Path, error: int) -> None:
        self.path = path
        self.told: list[dict[str, Any]] = []
        self.heard = 0
        self._error = error
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                channel, _ = self._listening.accept()
            except OSError:
                return
            body, (listener,), _, _ = socket.recv_fds(channel, 1 << 16, 1)
            while more := channel.recv(1 << 16):
                body += more
            channel.close()
            self.told.append(json.loads(body))
            threading.Thread(target=self._answer, args=(listener,), daemon=True).start()

    def _answer(self, listener: int) -> None:
        while True:
            asked = bytearray(80)
            try:
                fcntl.ioctl(listener, seccomp_notify.SECCOMP_IOCTL_NOTIF_RECV, asked)
            except OSError:  # all who had the filter have ended
                os.close(listener)
                return
            self.heard += 1
            (identity,) = struct.unpack_from("=Q", asked)
            answer = bytearray(RESPONSE.pack(identity, 0, -self._error, 0))
            fcntl.ioctl(listener, seccomp_notify.SECCOMP_IOCTL_NOTIF_SEND, answer)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(20)


@contextmanager
def answering(folder: Path, error: int = 0) -> Iterator[Answering]:
    made = Answering(folder / "answers.sock", error)
    try:
        yield made
    finally:
        made.close()


def notified(bundle: Bundle, who: Answering) -> dict[str, Any]:
    config = asked_to_name(bundle, action="SCMP_ACT_NOTIFY")
    config["linux"]["seccomp"] |= {
        "listenerPath": str(who.path), "listenerMetadata": METADATA,
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC"],
    }  # fmt: skip
    return config


@pytest.mark.parametrize("quiet", [True, False])
def test_who_is_asked_decides(bundle: Bundle, tmp_path: Path, quiet: bool) -> None:
    with answering(tmp_path) as who:
        config = notified(bundle, who)
        config["annotations"] = {"org.example.key": "value"}
        config["process"]["noNewPrivileges"] = quiet
        assert bundle.output(config).split() == ["0", "inside"]  # it said yes, and did nothing
    (told,) = who.told
    assert who.heard == 1
    assert (told["fds"], told["metadata"]) == (["seccompFd"], METADATA)
    assert told["pid"] == told["state"]["pid"] > 1
    assert told["state"]["annotations"] == config["annotations"]
    assert told["ociVersion"].startswith("1.") and told["state"]["status"] == "creating"


def test_a_no_of_who_is_asked_is_the_error_of_the_call(bundle: Bundle, tmp_path: Path) -> None:
    with answering(tmp_path, errno.EXDEV) as who:
        done = bundle.run(notified(bundle, who))
        assert done.stdout.split() == ["1", "inside"] and "cross-device" in done.stderr


def test_who_asks_at_once_is_heard_after_it_is_known_who_was_born(
    bundle: Bundle, tmp_path: Path
) -> None:
    """The helper that joins and the process that it leaves there speak over one socket: a helper
    that is late by a third of a second must come first nevertheless."""
    late = ["-e", "trace=clone3", "-e", "inject=clone3:delay_exit=300000"]
    with answering(tmp_path) as who:
        config = notified(bundle, who)
        config["process"]["args"] = ["sleep", "1000"]
        with bundle.created(config) as name:
            bundle.ok("start", name)
            bundle.argv[:0] = [STRACE, "-f", "-qq", "-o", str(tmp_path / "calls"), *late]
            try:
                assert bundle.ok("exec", name, "hostname") == "inside\n"
            finally:
                del bundle.argv[: bundle.argv.index(late[-1]) + 1]


def test_start_and_exec_hand_a_listener_over_each(bundle: Bundle, tmp_path: Path) -> None:
    with answering(tmp_path) as who:
        config = notified(bundle, who)
        config["process"]["args"] = ["sleep", "1000"]
        with bundle.created(config) as name:
            assert who.told == []
            bundle.ok("start", name)
            bundle.ok("exec", name, "/bin/hostname", "other")
            assert bundle.ok("exec", name, "hostname") == "inside\n"
            until(lambda: len(who.told) == 3)  # it may note it after the program has gone on
            states = [each["state"]["status"] for each in who.told]
            assert states == ["created", "running", "running"]
            first, second, _ = who.told
            assert first["pid"] == second["state"]["pid"] != second["pid"]


def test_where_nobody_listens_it_is_an_error_and_the_container_ends(
    bundle: Bundle, tmp_path: Path
) -> None:
    with answering(tmp_path) as who:
        config = notified(bundle, who)
    config["process"]["args"] = ["sh", "-c", "echo begun"]  # asks of nothing
    done = bundle.run(config)
    assert done.returncode == 1 and "send the listener" in done.stderr
    assert done.stdout == ""
    with bundle.created(config) as name:
        assert bundle.call("start", name).returncode == 1
        deadline = time.monotonic() + SECONDS  # it was killed; that takes its time
        while bundle.state(name)["status"] != "stopped":
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(
    "flag",
    ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
)
@pytest.mark.parametrize("quiet", [True, False])
def test_flags_are_those_of_the_call(bundle: Bundle, flag: str, quiet: bool) -> None:
    config = asked_to_name(bundle, action="SCMP_ACT_ERRNO")
    config["linux"]["seccomp"]["flags"] = [flag]
    config["process"]["noNewPrivileges"] = quiet
    config["process"]["args"] = ["grep", "-E", "Seccomp|Speculation_Store", "/proc/self/status"]
    found = dict(line.split(":", 1) for line in bundle.output(config).splitlines())
    assert (found["Seccomp"].strip(), found["Seccomp_filters"].strip()) == ("2", "1")


def test_a_listener_waits_as_its_flags_say(bundle: Bundle, tmp_path: Path) -> None:
    with answering(tmp_path) as who:
        config = notified(bundle, who)
        config["linux"]["seccomp"]["flags"] = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
        assert bundle.output(config).split() == ["0", "inside"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"flags": ["SECCOMP_FILTER_FLAG_OTHER"]}, "linux.seccomp.flags"),
        ({"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}, "linux.seccomp.flags"),
        ({"listenerMetadata": "x"}, "linux.seccomp.listenerMetadata"),
        ({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}, "defaultAction"),
        ({"defaultErrnoRet": 1}, "errnoRet"),
        ({"action": "SCMP_ACT_NOTIFY"}, "linux.seccomp.listenerPath"),
        ({"action": "SCMP_ACT_NOTIFY", "names": ["sendmsg"], "listenerPath": "/x"}, "sendmsg"),
        ({"action": "SCMP_ACT_KILL", "errnoRet": 1}, "errnoRet"),
        ({"action": "SCMP_ACT_OTHER"}, "SCMP_ACT_OTHER"),
        ({"architectures": ["SCMP_ARCH_S390X"]}, "SCMP_ARCH_S390X"),
    ],
)
def test_what_can_t_be_is_refused_by_name(
    bundle: Bundle, changes: dict[str, Any], named: str
) -> None:
    config = asked_to_name(bundle, action="SCMP_ACT_ERRNO")
    profile = config["linux"]["seccomp"]
    for name, value in changes.items():
        (profile["syscalls"][0] if name in ("action", "names", "errnoRet") else profile)[name] = (
            value
        )
    done = bundle.run(config)
    assert done.returncode == 1 and named in done.stderr and len(done.stderr.splitlines()) == 1
