"""The store: images, their blobs and their unpacked layers on disk, content-addressed."""

from sandbox_kernel.image.store.blobs import BlobWriter, Partial
from sandbox_kernel.image.store.names import Listed
from sandbox_kernel.image.store.store import Lease, Store, Stored

__all__ = ["BlobWriter", "Lease", "Listed", "Partial", "Store", "Stored"]
