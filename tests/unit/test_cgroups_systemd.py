"""Asking systemd for a scope: the message, and the refusals that need no systemd."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from jeepney import DBusAddress, HeaderFields, Parser

from sandbox_kernel import errors
from sandbox_kernel.runtime.cgroups import mounted, systemd

V2 = mounted.Mounts({}, mounted.Mount("/sys/fs/cgroup", "/", False))


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A runtime folder of our own, on a machine with v2, for whoever runs the test."""
    monkeypatch.setattr(mounted, "read", lambda: V2)
    monkeypatch.setattr(systemd, "SYSTEM_BUS", str(tmp_path / "bus"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_the_request_is_what_the_interface_takes() -> None:
    sent = systemd.start_message("sandbox-kernel-abc.scope", 42)
    (read,) = Parser().feed(sent.serialise(serial=1))
    fields = read.header.fields
    assert fields[HeaderFields.signature] == "ssa(sv)a(sa(sv))"
    assert fields[HeaderFields.member] == "StartTransientUnit"
    assert fields[HeaderFields.destination] == "org.freedesktop.systemd1"
    unit, mode, properties, auxiliary = read.body
    assert (unit, mode, auxiliary) == ("sandbox-kernel-abc.scope", "fail", [])
    assert dict(properties) == {
        "Description": ("s", "Containers of sandbox-kernel"),
        "PIDs": ("au", [42]),
        "Delegate": ("b", True),
        "CollectMode": ("s", "inactive-or-failed"),
    }
    assert DBusAddress(systemd.OBJECT).object_path == fields[HeaderFields.path]


def test_no_bus_is_refused_with_the_remedy(runtime: Path) -> None:
    remedy = "start the system's bus" if os.geteuid() == 0 else "log in through a session"
    with pytest.raises(errors.HostLacks, match=f"bus`: No such file or directory: {remedy}"):
        systemd.delegated_scope(os.getpid(), "abc")


def test_no_cgroup_v2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounted, "read", lambda: mounted.Mounts({}, None))
    with pytest.raises(errors.HostLacks, match="cgroup v2 is not mounted"):
        systemd.delegated_scope(os.getpid(), "abc")
    assert not systemd.is_wanted()


def test_a_bus_that_does_not_answer_is_refused(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(runtime / "bus"))
        silent.listen()
        with pytest.raises(errors.HostLacks, match=r"sandbox-kernel-abc\.scope.*no answer"):
            systemd.delegated_scope(os.getpid(), "abc")


def test_another_user_s_bus_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runtime / "bus").touch()
    if os.geteuid() == 0:
        os.chown(runtime / "bus", 4711, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(errors.HostLacks, match="the socket belongs to user"):
        systemd.delegated_scope(os.getpid(), "abc")


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("owners", "mark", "wanted"),
    [
        pytest.param((0, 1000, 1000), None, True, id="of-the-manager-of-this-user"),
        pytest.param((0, 1000, 1000), b"1", False, id="marked-by-systemd"),
        pytest.param((0, 1000, 1000), b"0", True, id="marked-as-not-delegated"),
        pytest.param((0, 0, 1000), None, False, id="given-by-root"),
        pytest.param((0, 0, 0), None, True, id="of-a-session"),
    ],
)
@pytest.mark.parametrize("leaf", ["", "/launcher"])
def test_a_group_that_is_not_delegated_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    owners: tuple[int, ...],
    mark: bytes | None,
    wanted: bool,
    leaf: str,
) -> None:
    """Users' groups as the kernel tells of them: who has each, and the mark on the last."""
    user = tmp_path / "user.slice/user-1000.slice/user@1000.service/app.slice"
    group = user / "terminal.scope"
    (group / "launcher").mkdir(parents=True)
    of = dict(zip((user.parent, user, group), owners, strict=True))

    def stat(path: str) -> SimpleNamespace:
        return SimpleNamespace(st_uid=of.get(Path(path), owners[-1]))

    def getxattr(path: str, name: str) -> bytes:
        if Path(path) != group or mark is None or name != "user.delegate":
            raise OSError(errno.ENODATA, "no such mark")
        return mark

    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path))
    monkeypatch.setattr(mounted, "read", lambda: V2)
    monkeypatch.setattr(mounted, "own_v2", lambda mount: f"{group}{leaf}")
    fake = SimpleNamespace(geteuid=lambda: 1000, path=os.path, stat=stat, getxattr=getxattr)
    monkeypatch.setattr(systemd, "os", fake)

    assert systemd.is_wanted() is wanted
