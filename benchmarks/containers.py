"""A cold run of `/bin/true` in a new container, beside `runc run` and `bwrap`.

Ours goes through the API of a running program, and is checked while it is measured: each run has
another container, which ended, had its limits read back, and was nobody's before. By the command
line of an OCI runtime it is a process as `runc` is, of the same bundle, that leaves nothing.

The peers show the program the same files: `runc` runs the bundle of the same plan (without the
time namespace, which it does not know before 1.2), `bwrap` binds the same places.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.pairs import Pair, measure
from sandbox_kernel import bundle, image, oci, policy
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.image import Image

PROGRAM = "/bin/true"
RUNC, CRUN, BWRAP = "/usr/sbin/runc", "/usr/bin/crun", "/usr/bin/bwrap"
# Ids that no user of the machine has; those of the launcher begin elsewhere.
FIRST_ID, IDS = 0x7E000000, 65536


def cold_runs(rounds: int) -> Iterator[Pair]:
    """Needs root for `runc`, and Debian's packages `runc` and `bubblewrap`."""
    plan = policy.plan("program", image="host", memory="256m", pids_limit=64)
    shown = image.resolve("host").expanded()
    seen: set[str] = set()

    def ours() -> None:
        container = Container.create(plan, process=ProcessSpec(argv=(PROGRAM,)))
        process = container.process
        assert process is not None
        assert process.wait(30).status == 0
        assert container.id not in seen
        assert container.limits_at_start["memory"] == 256 << 20
        assert container.limits_at_start["pids_limit"] == 64
        seen.add(container.id)
        container.close()

    what = f"cold run of `{PROGRAM}`"
    with _runc_bundle(plan, shown) as (folder, state):
        command = [RUNC, "--root", state, "run", "--bundle", folder, f"benchmark-{os.getpid()}"]
        yield measure(what, ours, "runc run", _command(command), bound=1 / 5, rounds=rounds)
    command = bwrap(shown)
    yield measure(what, ours, "bwrap", _command(command), bound=1.5, rounds=rounds)


def command_runs(rounds: int) -> Iterator[Pair]:
    """The command line of the OCI runtime, by its quick entry and as the command."""
    plan = policy.plan("program", image="host", memory="256m", pids_limit=64)
    shown = image.resolve("host").expanded()
    entry = str(Path(oci.__file__).with_name("quick-entry"))
    command = str(Path(sys.executable).with_name("sandbox-kernel"))
    entries = (("quick entry", [entry]), ("command", [command, "runtime"]))
    with _runc_bundle(plan, shown) as (folder, state):
        run = ["--root", state, "run", "--bundle", folder, f"benchmark-{os.getpid()}"]

        def nothing_is_left() -> None:
            assert os.listdir(state) == []

        for of, change in (("our plan", dict), ("`runc spec`", _as_runc_specifies)):
            path = Path(folder, "config.json")
            path.write_text(json.dumps(change(json.loads(path.read_text()))))
            peers = [runtime for runtime in (RUNC, CRUN) if _works([runtime, *run])]
            for peer, (by, ours) in itertools.product(peers, entries):
                yield measure(
                    f"OCI runtime, by its {by}: cold `run` of `{PROGRAM}`, bundle of {of}",
                    _command([*ours, *run]), f"{Path(peer).name} run", _command([peer, *run]),
                    bound=1, rounds=rounds, check=nothing_is_left,
                )  # fmt: skip


def _as_runc_specifies(config: dict[str, Any]) -> dict[str, Any]:
    """What `runc spec` writes, no user namespace and no filter, with the files that ours shows."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([RUNC, "spec", "--bundle", folder], check=True)
        specified: dict[str, Any] = json.loads(Path(folder, "config.json").read_text())
    specified["process"].update(args=[PROGRAM], terminal=False)
    specified["mounts"] += [mount for mount in config["mounts"] if mount["type"] == "bind"]
    return specified


def _works(argv: list[str]) -> bool:
    """Whether a peer is there and runs such a bundle: crun refuses mixed mounts of cgroups."""
    if not os.access(argv[0], os.X_OK):
        return False
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


def _command(argv: list[str]) -> Any:
    def run() -> None:
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    return run


def bwrap(shown: Image) -> list[str]:
    """The command: the program of these benchmarks, its last word, behind bwrap's walls."""
    words = [BWRAP, "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]
    words += ["--tmpfs", "/tmp"]
    for entry in shown.entries:
        if entry["kind"] == "link":
            words += ["--symlink", entry["target"], entry["path"]]
    for mount in shown.mounts:
        words += ["--ro-bind", mount["source"], mount["destination"]]
    return [*words, PROGRAM]


@contextmanager
def _runc_bundle(plan: policy.ContainerPlan, shown: Image) -> Iterator[tuple[str, str]]:
    """A folder with `config.json` and `rootfs`, and a folder for runc's state."""
    config: dict[str, Any] = json.loads(json.dumps(bundle.make(plan, shown).config))
    config["process"]["args"] = [PROGRAM]
    for mount in config["mounts"]:
        if mount["type"] == "bind":
            mount["options"] = ["rbind", *mount["options"]]
    linux = config["linux"]
    linux["namespaces"] = [kind for kind in linux["namespaces"] if kind["type"] != "time"]
    ids = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
    linux["uidMappings"] = linux["gidMappings"] = ids
    linux["cgroupsPath"] = f"/sandbox-kernel-benchmark-{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix="sandbox-kernel-benchmark-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        root = folder / "rootfs"
        root.mkdir()
        for entry in shown.entries:
            _make(root, entry)
        for place, _, files in os.walk(root):
            for name in (place, *(os.path.join(place, file) for file in files)):
                os.lchown(name, FIRST_ID, FIRST_ID)
        (folder / "config.json").write_text(json.dumps(config))
        yield str(folder), str(folder / "state")
    finally:
        shutil.rmtree(folder)


def _make(root: Path, entry: Any) -> None:
    place = root / entry["path"].lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if entry["kind"] == "directory":
        place.mkdir(exist_ok=True)
        place.chmod(entry.get("mode", 0o755))
    elif entry["kind"] == "link":
        place.symlink_to(entry["target"])
    else:
        place.write_text(entry["text"])
