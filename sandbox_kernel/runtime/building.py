"""What a build asks for inside a container, of a fork of its pid 1: place, gather, find, layer."""

from __future__ import annotations

import os

from sandbox_kernel.containerfile import ignore
from sandbox_kernel.errors import CopyRefused, StepFailed
from sandbox_kernel.linux import mounts, paths
from sandbox_kernel.runtime import accounts, gathering, layering, placing, transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

DOES = ("place", "gather", "make-folder", "own", "owner", "end-others", "layer")


def serve(order: Mapping[str, Any]) -> None:
    """Do what `order["do"]` says; see `placing`, `gathering` and `layering`.

    But for `layer`, descriptor 1 takes records of `transfer`, ended by `end` or `failed`.
    """
    if order["do"] == "layer":
        layering.serve(order)
        return
    try:
        if order["do"] == "place":
            placing.Placing(0, order).work()
        elif order["do"] == "end-others":
            layering.end_others()
        elif order["do"] == "owner":
            uid, gid = accounts.owner(order["owner"])
            transfer.write_record(1, {"kind": "owner", "uid": uid, "gid": gid})
        elif order["do"] == "own":
            _own(order)
        elif order["do"] == "make-folder":
            placing.make_working_directory(order)
        else:
            _gather(order)
    except StepFailed as error:
        failed = {"kind": "failed", "path": error.subject, "why": error.why}
    except CopyRefused as error:
        failed = {"kind": "failed", "path": order.get("destination", ""), "why": str(error)}
    except OSError as error:
        why = os.strerror(error.errno or 0)
        failed = {"kind": "failed", "path": order.get("destination", ""), "why": why}
    else:
        failed = {"kind": "end"}
    transfer.write_record(1, failed)


def _own(order: Mapping[str, Any]) -> None:
    """Owner and mode of a mounted folder of the build's own. OSError."""
    resolve = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS
    folder = paths.open_below(mounts.AT_FDCWD, order["path"], os.O_RDONLY | os.O_DIRECTORY, resolve)
    try:
        os.fchown(folder, order["uid"], order["gid"])
        os.fchmod(folder, order["mode"])
    finally:
        os.close(folder)


def _gather(order: Mapping[str, Any]) -> None:
    """Give the files that patterns name in this root: `patterns`, `excluded`, `parents`."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sink = Sink(1, own=True)
    gatherer = gathering.Gathering(
        root, sink.give, excluded=excluded(order["excluded"]), one_mount=True
    )
    for pattern in order["patterns"]:
        for path, folder, into in gathering.matching(gatherer, pattern, parents=order["parents"]):
            sink.begin(path.rpartition("/")[2], folder=folder, into=into)
            gatherer.give(path)


def excluded(patterns: Sequence[str]) -> ignore.Ignored | None:
    """The rules of `--exclude`. Raises StepFailed."""
    rules = [ignore.rule(one, gathering.Pattern(one)) for one in patterns]
    return ignore.Ignored(rules) if rules else None


class Sink:
    """Writes what is found to a descriptor, as records of `transfer`."""

    def __init__(self, sink: int, *, own: bool) -> None:
        self._sink = sink
        self._own = own

    def begin(self, name: str, *, folder: bool, into: str) -> None:
        """A source follows."""
        source = {"kind": "source", "name": name, "folder": folder, "into": into}
        transfer.write_record(self._sink, source)

    def give(self, found: gathering.Found) -> None:
        """One thing, with the content of a file."""
        transfer.write_record(self._sink, gathering.record(found, own=self._own))
        if found.kind == "file":
            while data := os.read(found.descriptor, transfer.PIECE):
                transfer.write_piece(self._sink, data)
            transfer.write_piece(self._sink, b"")

    def end(self) -> None:
        """That was all."""
        transfer.write_record(self._sink, {"kind": "end"})
