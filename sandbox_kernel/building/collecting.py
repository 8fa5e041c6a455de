"""What builds leave beside the store and nobody needs: entries without layers, caches of RUN."""

from __future__ import annotations

import fcntl
import os

from sandbox_kernel.building.cache import Cache
from sandbox_kernel.image.store import Store


def prune(store: Store, *, caches: bool) -> int:
    """Forget steps whose layers are gone; with `caches` remove the folders of `type=cache` too.

    Returns how many entries and folders went. What a step uses just now stays.
    """
    cache = Cache(store)
    gone = sum(cache.forget(name) for name in cache.names() if cache.get(name) is None)
    if caches:
        folder = f"{store.root}/builds/caches"
        names = os.listdir(folder) if os.path.isdir(folder) else []
        gone += sum(_remove(f"{folder}/{name}") for name in names)
    return gone


def _remove(folder: str) -> bool:
    """One cache, unless a step holds its lock. Its files have many owners."""
    from sandbox_kernel.image.layers import remove_tree

    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # another `prune` was quicker
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(folder)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
