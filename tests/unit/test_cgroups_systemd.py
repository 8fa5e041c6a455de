"""Asking systemd for a scope: the message, and the refusals that need no systemd."""

from __future__ import annotations

import builtins
import os
import socket
import sys
from pathlib import Path

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
    with pytest.raises(errors.HostLacks, match=r"bus`: No such file or directory: log in through"):
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


def test_without_jeepney_it_says_what_to_install(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runtime / "bus").touch()
    real = builtins.__import__

    def without(name: str, *arguments: object, **more: object) -> object:
        if name.partition(".")[0] == "jeepney":
            raise ImportError(name)
        return real(name, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.partition(".")[0] == "jeepney"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(errors.HostLacks, match=r"pip install 'sandbox-kernel\[systemd\]'"):
        systemd.delegated_scope(os.getpid(), "abc")
