"""What has to hold after the faults of a seed: the findings, one line each. None: it held."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import leftovers
import psutil

import sandbox_kernel
from chaos.faults import RUNTIME, processes
from sandbox_kernel import errors
from sandbox_kernel.image import documents
from sandbox_kernel.image.store import Store, blobs
from sandbox_kernel.network import client as network
from sandbox_kernel.runtime import client

KEPT = re.compile(r"index\.(previous|broken)|sha(256|512)-[0-9a-f]+|oci-layout")
"""Names in `partial/` that are there on purpose: the list as it was, and beginnings of blobs."""
FOUND_AGAIN_SECONDS = 10.0


def in_own_namespace(module: str, words: list[str]) -> int:
    """The status of a module of this package that runs where the runtime folder is its own."""
    if os.geteuid() != 0:
        print("run it as root: it mounts a folder of its own", file=sys.stderr)
        return 2
    mount = f'mkdir -p {RUNTIME} && mount -t tmpfs -o mode=700 chaos {RUNTIME} && exec "$@"'
    argv = [sys.executable, "-m", module, "inside", *words]
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *argv],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        check=False,
    ).returncode


def lost(saved: list[tuple[str, str, str]], excused: set[str], *, last_name: bool) -> list[str]:
    """What was said to be saved and is not there as it was. `excused`: what `repair` named.

    `last_name`: the list of images was damaged, and put back as it was before its last change.
    """
    store = Store.open()
    found = []
    for what, key, value in saved:
        if what == "file":
            there = Path(key).read_text() if Path(key).exists() else None
            if there != value:
                found.append(f"lost: file {key} has {there!r}, not {value!r}")
            continue
        full = store.full_name(key)
        if full in excused:
            continue
        try:
            image = store.find(key)
            whole = image.digest == value
            for part in (image.manifest.config, *image.manifest.layers):
                blobs.read(store.places, part.digest, documents.LARGEST_DOCUMENT << 4)
        except errors.ImageError as error:
            found.append(f"lost: image {key}: {error}")
        else:
            if not whole:
                found.append(f"lost: image {key} is {image.digest}, not {value}")
    missing = [line for line in found if "lost: image" in line and "none such" in line]
    if last_name and len(missing) == 1:
        found.remove(missing[0])
    return found


def store_is_whole(excused: set[str]) -> list[str]:
    """After a collection of garbage nothing is wrong with the store, and nothing is over.

    But what `repair` named, and nobody has loaded again.
    """
    store = Store.open()
    store.prune()
    wrong = [each for each in store.check() if not excused.intersection(each.images)]
    found = [f"store: {problem}" for problem in wrong]
    over = [name for name in os.listdir(f"{store.root}/partial") if not KEPT.fullmatch(name)]
    return found + [f"store: partial/{name} is left" for name in over]


def next_start() -> list[str]:
    """The next program works, and removes what was left."""
    try:
        text = sandbox_kernel.run("6 * 7").check().text
    except errors.SandboxError as error:
        return [f"the next start fails: {type(error).__name__}: {error}"]
    finally:
        client.stop_pool()
        client.end_shared()
        stop_what_waits()
    return [] if text == "42" else [f"the next start answers {text!r}"]


def stop_what_waits() -> None:
    """What is kept ready on purpose between programs."""
    deadline = time.monotonic() + FOUND_AGAIN_SECONDS
    while True:
        with contextlib.suppress(errors.SandboxError):
            client.stop_holder()
        network.stop()
        if not _is_holder_there() or time.monotonic() > deadline:
            break
        time.sleep(0.2)  # one whose name or socket was damaged puts it right when it looks


def _is_holder_there() -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        launchers = [each.cmdline() for each in processes("launcher")]
        return any("holder" in words for words in launchers) or any(processes("network"))
    return True


def left(before: leftovers.Snapshot) -> list[str]:
    """Processes, mounts, groups, interfaces and files since `before`, and locks of nobody."""
    found = [
        f"left: {line}"
        for line in leftovers.settled(leftovers.keeper_pid(), before, program=os.getpid())
    ]
    found += [f"left: {path}" for path in RUNTIME.glob("relay-*")]
    for path in (RUNTIME / "ids").glob("*"):
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(f"left: a lock of ids: {path}")
    return found
