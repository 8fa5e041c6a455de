"""The confined process that handles layers. Started by `process.start`; takes one order, answers.

    {"verb": "apply", ...}     unpack what comes through a descriptor into the directory
    {"verb": "pack", ...}      write the directory as a layer to a descriptor
    {"verb": "walk", ...}      tell of each name in the directory
    {"verb": "remove", ...}    remove a tree whose files may belong to other ids

It imports all that it needs before it goes behind its walls.
"""

from __future__ import annotations

import base64
import errno
import os
import resource
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sandbox_kernel.errors import HostLacks, ImageError, SandboxError
from sandbox_kernel.image.layers import confinement, names, placing, removing, tar
from sandbox_kernel.image.layers.compression import PIECE, Plain
from sandbox_kernel.image.layers.limits import Limits
from sandbox_kernel.linux import messages, processes, writing


def main() -> None:
    """The process's whole life. Ends by `os._exit`: a thread may still wait for input."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    status = 1
    try:
        received = messages.receive(channel)
        if received is not None:
            order, descriptors = received
            answer = _answer(channel, order, descriptors)
            with suppress(BrokenPipeError):  # who asked was killed, and nobody is there to tell
                messages.send(channel, answer)
                status = 0
    except BaseException:
        traceback.print_exc()  # a flaw of ours: nothing of it is lost
    finally:
        os._exit(status)


FULL = ": free space where the store of images is, then try again"


def _answer(
    channel: socket.socket, order: dict[str, Any], descriptors: list[int]
) -> dict[str, Any]:
    try:
        return _VERBS[order["verb"]](channel, order, descriptors)
    except (ImageError, HostLacks) as error:
        return {"error": type(error).__name__, "text": str(error)}
    except SandboxError as error:
        return {"error": "HostLacks", "text": str(error)}
    except OSError as error:
        where = f" `{names.display(os.fsencode(error.filename))}`" if error.filename else ""
        helps = FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return {"error": "HostLacks", "text": f"{error.strerror}{where}{helps}"}
    except MemoryError:
        return {"error": "ImageError", "text": "it needs more memory than is given to unpack it"}


def _confine(
    channel: socket.socket, order: dict[str, Any], descriptors: list[int]
) -> tuple[int, list[int], int]:
    """Go behind the walls. Returns the root, the layers below, and the number of ids."""
    processes.set_name("layer")
    processes.close_all_but((0, 1, 2, channel.fileno(), *descriptors))
    ids = confinement.become_root(channel)
    processes.end_with_parent()
    os.umask(0)
    root, below = confinement.enter(order["directory"], order.get("below") or ())
    confinement.lock(base64.b64decode(order["seccomp"]))
    return root, below, ids


def _apply(channel: socket.socket, order: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    (source,) = descriptors
    root, below, ids = _confine(channel, order, descriptors)
    limits = Limits(**order["limits"])
    plain = Plain(lambda: os.read(source, PIECE), order["compression"], limits)
    reader = tar.Reader(plain.next, limits)
    parents = None if order["below"] is None else tuple(below)
    placer = placing.Placer(root, parents=parents, ids=ids)
    while (member := reader.member()) is not None:
        placer.put(member, reader.data())
        if order["alone"] and placer.depends:
            return {"facts": placer.facts("", 0)._asdict()}
    while plain.next():
        pass
    expected = order["diff_id"]
    if expected is not None and plain.diff_id != expected:
        raise ImageError(f"its files have the digest {plain.diff_id}, the image says {expected}")
    if not reader.ended_well and expected is None:
        raise ImageError("its archive is cut off")
    placer.finish()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"facts": placer.facts(plain.diff_id, plain.size)._asdict(), "peak": peak}


def _remove(
    channel: socket.socket, order: dict[str, Any], descriptors: list[int]
) -> dict[str, Any]:
    root, _, _ = _confine(channel, order, descriptors)
    try:
        removing.remove(root, order["name"])
    except FileNotFoundError:
        return {"removed": False}
    return {"removed": True}


def _pack(channel: socket.socket, order: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    from sandbox_kernel.image.layers import gathering
    from sandbox_kernel.image.layers.compressing import Gzip

    out, *open_tree = descriptors
    root, _, _ = _confine(channel, order, descriptors)
    packed = Gzip(lambda data: writing.whole(out, data))
    owner = order["owner"]
    gatherer = gathering.Gatherer(
        packed.write,
        epoch=order["epoch"],
        prefix=os.fsencode(order["prefix"]),
        owner=None if owner is None else (owner[0], owner[1]),
        made=frozenset(os.fsencode(path) for path in order["made"]),
    )
    gatherer.gather(open_tree[0] if open_tree else root, with_root=not open_tree)
    packed.close()
    facts = {
        "digest": packed.digest,
        "size": packed.size,
        "diff_id": packed.diff_id,
        "plain_size": packed.plain_size,
        "members": gatherer.members,
    }
    return {"packed": facts}


def _walk(channel: socket.socket, order: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    from sandbox_kernel.image.layers.walking import Walk

    out, *open_tree = descriptors
    root, _, _ = _confine(channel, order, descriptors)
    with open(out, "wb", buffering=PIECE) as lines:
        walk = Walk(lines.write, contents=order["contents"])
        walk.folder(open_tree[0] if open_tree else root, "")
    return {}


_VERBS: dict[str, Callable[[socket.socket, dict[str, Any], list[int]], dict[str, Any]]] = {
    "apply": _apply,
    "pack": _pack,
    "remove": _remove,
    "walk": _walk,
}
