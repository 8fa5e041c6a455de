"""The store: images, their blobs and their unpacked layers on disk, content-addressed."""

from sandbox_kernel.image.store.blobs import BlobWriter, Partial
from sandbox_kernel.image.store.checking import Problem
from sandbox_kernel.image.store.collecting import Collected
from sandbox_kernel.image.store.names import Listed
from sandbox_kernel.image.store.store import Lease, Pruned, Removed, Store, Stored

__all__ = [
    "BlobWriter", "Collected", "Lease", "Listed", "Partial", "Problem", "Pruned", "Removed",
    "Store", "Stored",
]  # fmt: skip
