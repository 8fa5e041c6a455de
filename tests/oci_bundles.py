"""Bundles for tests of the OCI command line: a valid configuration, changed in one point, run."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

BUSYBOX = "/bin/busybox"
APPLETS = ("sh", "cat", "ls", "id", "sleep", "true", "mount", "hostname", "touch", "stat", "env",
           "readlink", "kill", "umount", "mknod", "head", "wc", "grep", "tty",
           "unshare", "uname")  # fmt: skip


@contextmanager
def made(folder: Path) -> Iterator[Bundle]:
    """A bundle in a folder, whose containers are gone at the end."""
    folder.chmod(0o755)
    bundle = Bundle(folder)
    yield bundle
    assert bundle.left() == []


class Bundle:
    """A bundle and the containers of it that a test makes; all are gone with `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "state"
        self.rootfs = folder / "rootfs"
        self.argv = [
            sys.executable, "-I", "-m", "sandbox_kernel.oci.main", "--root", str(self.root)
        ]  # fmt: skip
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "root"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy(BUSYBOX, self.rootfs / "bin/busybox")
        for name in APPLETS:
            (self.rootfs / "bin" / name).symlink_to("busybox")
        (self.rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")

    def config(self, *words: str) -> dict[str, Any]:
        """A valid configuration: everything of its own, nothing of the host."""
        kinds = ("pid", "mount", "network", "ipc", "uts", "cgroup")
        safe = ["nosuid", "noexec", "nodev"]
        return {
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "inside",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": list(words) or ["true"],
                "env": ["PATH=/bin", "HOME=/root"],
                "cwd": "/",
                "noNewPrivileges": True,
                "capabilities": {"bounding": [], "effective": [], "permitted": []},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": safe},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                 "options": [*safe, "mode=1777", "size=1m"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                 "options": [*safe, "ro"]},
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in kinds],
                "maskedPaths": ["/proc/interrupts", "/sys/kernel"],
                "readonlyPaths": ["/proc/sys"],
            },
        }  # fmt: skip

    def write(self, config: dict[str, Any]) -> None:
        """config.json is this from now on."""
        (self.folder / "config.json").write_text(json.dumps(config))

    def call(
        self, *words: str, given: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """One call of the command line."""
        return subprocess.run(
            [*self.argv, *words], capture_output=True, text=True, timeout=60, check=False,
            input=given, stdin=None if given is not None else subprocess.DEVNULL, **options,
        )  # fmt: skip

    def ok(self, *words: str, **options: Any) -> str:
        """The same, which has to succeed."""
        done = self.call(*words, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(
        self, config: dict[str, Any], *options: str, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a configuration to its end."""
        self.write(config)
        return self.call(
            "run", "--bundle", str(self.folder), *options, secrets.token_hex(4), **more
        )

    def output(self, config: dict[str, Any], *options: str, **more: Any) -> str:
        """What it wrote; it has to succeed."""
        done = self.run(config, *options, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def quiet(self, said: TextIO, *words: str) -> None:
        """A call that leaves a process: a pipe of ours would stay open with that."""
        done = subprocess.run(
            [*self.argv, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=said, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, Path(said.name).read_text()

    @contextmanager
    def created(self, config: dict[str, Any], *options: str) -> Iterator[str]:
        """A container that waits to be started, by its name; removed at the end."""
        self.write(config)
        name = secrets.token_hex(4)
        with (self.folder / "said").open("w") as said:
            self.quiet(said, "create", "--bundle", str(self.folder), *options, name)
        try:
            yield name
        finally:
            self.ok("delete", "--force", name)

    def state(self, name: str) -> dict[str, Any]:
        """What `state` says."""
        told: dict[str, Any] = json.loads(self.ok("state", name))
        return told

    def left(self) -> list[str]:
        """Containers that are known still, and their groups."""
        known = os.listdir(self.root) if self.root.exists() else []
        return [*known, *(json.loads(self.ok("list", "--format", "json")))]
