"""Names in layers: how a member's name becomes a path below the layer, and which are whiteouts.

A name is bytes, taken as they are. `.` and empty parts are left out, so that an absolute name is
one below the layer's root; a `..` is refused. Whiteouts: OCI image specification, layer.md,
"Whiteouts"; names that begin with `.wh..wh.` are aufs's own housekeeping and mean nothing.
"""

from __future__ import annotations

from sandbox_kernel.errors import ImageError, shown

LONGEST_PATH = 4095  # PATH_MAX of linux/limits.h, without the NUL
LONGEST_NAME = 255  # NAME_MAX
WHITEOUT = b".wh."
META = b".wh..wh."
OPAQUE = b".wh..wh..opq"


def parts(path: bytes) -> list[bytes]:
    """The parts of a member's name, [] for the root. Raises ImageError."""
    if not path or b"\0" in path or len(path) > LONGEST_PATH:
        what = "no name" if not path else "a NUL in it" if b"\0" in path else "a name too long"
        raise ImageError(f"member `{display(path)}` has {what}")
    found = [part for part in path.split(b"/") if part not in (b"", b".")]
    for part in found:
        if part == b"..":
            raise ImageError(f"member `{display(path)}` leads out of the layer by `..`")
        if len(part) > LONGEST_NAME:
            raise ImageError(f"member `{display(path)}` has a part longer than {LONGEST_NAME}")
    return found


def link_parts(target: bytes) -> list[bytes]:
    """The parts of where a symbolic link leads, `..` among them."""
    return [part for part in target.split(b"/") if part not in (b"", b".")]


def whited_out(name: bytes, path: bytes) -> bytes:
    """What a whiteout (not an opaque marker, nor housekeeping) hides. Raises ImageError."""
    hidden = name[len(WHITEOUT) :]
    if hidden in (b"", b".", b".."):
        raise ImageError(f"whiteout `{display(path)}` names nothing that can be hidden")
    return hidden


def display(path: bytes) -> str:
    """A name as one short printable line."""
    return shown(path.decode("utf-8", "replace"))
