"""What `make` returns: everything a runtime needs to know, and nothing that is open or running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_kernel.linux import seccomp_cache
from sandbox_kernel.records import Record

if TYPE_CHECKING:
    from sandbox_kernel.bundle.oci import Config


class Bundle(Record):
    """An OCI configuration, and the layers of the root file system below its writable one."""

    config: Config
    layers: tuple[str, ...]
    """Lower directories, lowest first."""
    storage_size: int | None
    """Bytes of the writable layer; None: as much as there is memory for it."""
    image: str
    """Digest of the image it was made from."""

    def seccomp_program(self) -> bytes | None:
        """The compiled filter, from the cache; None when the plan says `seccomp=unconfined`."""
        profile = self.config["linux"].get("seccomp")
        return None if profile is None else seccomp_cache.program(profile)
