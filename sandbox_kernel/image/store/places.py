"""Where the store lies and how it is laid out: an OCI image layout, and beside it what is ours.

    oci-layout  index.json  blobs/<algorithm>/<hex>     OCI image specification, image-layout.md
    layers/<hex of the diff id>/tree                    a layer unpacked, with `facts` about it
    partial/                                            not whole yet, or not wanted any more
    locks/

Everything is complete under its name or not there: made in `partial/`, flushed, then renamed.
"""

from __future__ import annotations

import os
import stat

from msgspec import Struct

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.store import locks

VARIABLE = "SANDBOX_KERNEL_IMAGES"
"""Names another folder for the store: an absolute path."""
OF_ROOT = "/var/lib/sandbox-kernel/images"
LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
EMPTY_INDEX = (
    '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
)
FOLDERS = ("blobs/sha256", "blobs/sha512", "layers", "partial", "locks")


class Places(Struct, frozen=True):
    """The paths of one store."""

    root: str

    @property
    def index(self) -> str:
        """The list of names."""
        return f"{self.root}/index.json"

    def blob(self, digest: Digest) -> str:
        """Where a blob lies when it is whole."""
        return f"{self.root}/blobs/{digests.algorithm(digest)}/{digests.hexadecimal(digest)}"

    def layer(self, diff_id: Digest) -> str:
        """The folder of an unpacked layer: its `tree`, and `facts`."""
        return f"{self.root}/layers/{digests.hexadecimal(diff_id)}"

    def partial(self, name: str) -> str:
        """Something that is not whole."""
        return f"{self.root}/partial/{name}"

    def lock(self, name: str) -> str:
        """The file of a lock."""
        return f"{self.root}/locks/{name}"


def usual_root() -> str:
    """The folder of this user's store. Raises ImageError when it can't be told."""
    given = os.environ.get(VARIABLE)
    if given:
        if not os.path.isabs(given):
            raise ImageError(f"open the image store `{given}`: `{VARIABLE}` is no absolute path")
        return os.path.normpath(given)
    if os.geteuid() == 0:
        return OF_ROOT
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/share")
    if not os.path.isabs(base):
        raise ImageError(f"open the image store: this user has no home folder: set `{VARIABLE}`")
    return os.path.join(base, "sandbox-kernel", "images")


def prepare(root: str) -> Places:
    """Make the store's folders where they are missing. Raises ImageError when it can't be used."""
    places = Places(root)
    try:
        os.makedirs(root, 0o700, exist_ok=True)
        _refuse_strange(root)
        for name in FOLDERS:
            os.makedirs(f"{root}/{name}", 0o700, exist_ok=True)
        for name, text in (("oci-layout", LAYOUT), ("index.json", EMPTY_INDEX)):
            if not os.path.exists(f"{root}/{name}"):
                _create(places, name, text)
    except OSError as error:
        raise ImageError(
            f"open the image store `{root}`: {error.strerror}: make the folder writable for you, "
            f"or name another by `{VARIABLE}`"
        ) from error
    return places


def _refuse_strange(root: str) -> None:
    """Who could write there could put files into containers, who could read there sees all."""
    found = os.stat(root)
    if found.st_uid != os.geteuid():
        raise ImageError(
            f"open the image store `{root}`: it belongs to user {found.st_uid}, not to you: "
            f"name another by `{VARIABLE}`"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ImageError(
            f"open the image store `{root}`: others may look into it: run `chmod 700` on it"
        )


def _create(places: Places, name: str, text: str) -> None:
    """A file that is there whole or not at all, and of which the first maker wins."""
    made = places.partial(f"{name}.{os.getpid()}")
    with locks.hold(places.lock("names")):
        write_file(made, text.encode())
        try:
            os.link(made, f"{places.root}/{name}")
        except FileExistsError:
            pass
        finally:
            os.unlink(made)
    flush_folder(places.root)


def write_file(path: str, data: bytes) -> None:
    """A new file with this content that has reached the disk. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb", closefd=True) as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def flush_folder(path: str) -> None:
    """The names in a folder have reached the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
