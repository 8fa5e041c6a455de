"""What is known of a layer once it is unpacked."""

from __future__ import annotations

from typing import NamedTuple

MOST_NAMED = 20


class LayerFacts(NamedTuple):
    """An unpacked layer. Sizes in bytes. Lists hold MOST_NAMED entries at most.

    `dropped`: members or attributes that were left out by policy, and why. `flattened`: ids other
    than the user's own that could not be given (an ordinary user with no range of ids).
    `depends`: what can only be right when the layers below are known: unpack the layer again with
    `parents`, and don't share the result with images that have other layers below.
    """

    diff_id: str
    size: int
    members: int
    files: int
    bytes: int
    whiteouts: int
    opaque: int
    dropped: tuple[str, ...] = ()
    dropped_count: int = 0
    flattened: tuple[int, ...] = ()
    flattened_count: int = 0
    depends: tuple[str, ...] = ()

    def notice(self) -> str | None:
        """One line for the user when ids were flattened, else None."""
        if not self.flattened_count:
            return None
        named = ", ".join(map(str, self.flattened))
        more = ", ..." if self.flattened_count > len(self.flattened) else ""
        return (
            f"files of {self.flattened_count} other ids ({named}{more}) belong to root here, since "
            "this user has no range of ids: as root: usermod --add-subuids 100000-165535 "
            "--add-subgids 100000-165535 USER"
        )
