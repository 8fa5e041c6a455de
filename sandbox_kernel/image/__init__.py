"""Images: from a reference to ordered layers and a configuration."""

from sandbox_kernel.image.image import Entry, Image
from sandbox_kernel.image.resolve import resolve

__all__ = ["Entry", "Image", "resolve"]
