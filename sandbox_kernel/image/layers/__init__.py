"""Layers: unpacking them in a confined process, packing trees as layers, and looking into them."""

from sandbox_kernel.image.layers.applying import apply, remove_tree
from sandbox_kernel.image.layers.contents import Tree
from sandbox_kernel.image.layers.facts import LayerFacts
from sandbox_kernel.image.layers.limits import Limits
from sandbox_kernel.image.layers.packing import Packed, pack

__all__ = ["LayerFacts", "Limits", "Packed", "Tree", "apply", "pack", "remove_tree"]
