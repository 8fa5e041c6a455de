"""Which displays code in a container may update: those that the same container has shown.

A display is known to a page by its id, and whoever uses the id reaches it: a front end takes a new
display of a known id for an update, too. So the ids of a container get a prefix of its own on their
way out, and no id that is made up inside is one of another container or of the notebook.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

ID = "display_id"
MOST_DISPLAYS = 100_000
LONGEST_ID = 1024


class Displays:
    """The displays of one container. Cells that run in the same one share it."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._shown: OrderedDict[str, None] = OrderedDict()

    def outside(self, transient: Mapping[str, Any], *, update: bool) -> dict[str, Any] | None:
        """What a message outside says as `transient`; None for an update of what is not its own."""
        said = {key: value for key, value in transient.items() if key != ID}
        known = transient.get(ID)
        if not isinstance(known, str) or len(known) > LONGEST_ID:
            return None if update else said
        if update and known not in self._shown:
            return None
        self._shown[known] = None
        if len(self._shown) > MOST_DISPLAYS:
            self._shown.popitem(last=False)
        return {**said, ID: f"{self._prefix}-{known}"}
