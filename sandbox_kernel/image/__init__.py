"""Images: from a reference to ordered layers and a configuration."""

from sandbox_kernel.image.image import Entry, Image
from sandbox_kernel.image.resolve import check, resolve

__all__ = ["Entry", "Image", "check", "for_kernel", "resolve"]


def for_kernel(image: Image) -> Image:
    """The image with an ipykernel: its own, or that of the kernel layer.

    Raises ImageError for an image without a Python that can be given one, HostLacks without uv.
    """
    if image.reference == "host":
        return image  # this package needs ipykernel itself, so it is there
    from sandbox_kernel.image.environments import kernel_layer

    return kernel_layer.added(image)
