"""The OCI bundle of a container: typed structures, defaults, and `make(plan, image)`.

Nothing here touches the machine; `runtime/` makes it real, or any other OCI runtime does.
"""

from sandbox_kernel.bundle.bundle import Bundle
from sandbox_kernel.bundle.make import (
    capabilities_of,
    files,
    is_connected,
    make,
    profile,
    resources,
)

__all__ = ["Bundle", "capabilities_of", "files", "is_connected", "make", "profile", "resources"]
