"""Images in files: OCI image layouts, and tar archives as docker, podman and skopeo have them."""

from sandbox_kernel.image.archives.loading import load, load_one
from sandbox_kernel.image.archives.saving import save, save_layout

__all__ = ["load", "load_one", "save", "save_layout"]
