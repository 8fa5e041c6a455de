"""The code of this session's cells, as `history_request` asks for it."""

from __future__ import annotations

from collections import deque
from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec

from ..zmtp import Buffer

MOST = 10_000
SESSION = 1


class HistoryRequest(msgspec.Struct):
    """From a client."""

    hist_access_type: Literal["tail", "range", "search"] = "tail"
    n: int | None = 10
    start: int | None = None
    stop: int | None = None
    session: int | None = 0
    pattern: str | None = "*"
    unique: bool = False
    output: bool = False
    raw: bool = True


_request = msgspec.json.Decoder(HistoryRequest)


class History:
    """(number, code) of each cell, the newest last. Nothing is written to a disk."""

    def __init__(self) -> None:
        self._cells: deque[tuple[int, str]] = deque(maxlen=MOST)

    def add(self, count: int, code: str) -> None:
        """One more cell."""
        self._cells.append((count, code))

    def answer(self, content: Buffer) -> dict[str, Any]:
        """The content of the reply. What can't be read gets an empty one."""
        try:
            asked = _request.decode(content)
        except (msgspec.MsgspecError, UnicodeError):
            return {"status": "ok", "history": []}
        found = list(self._cells)
        if asked.hist_access_type == "range":
            start, stop = asked.start or 0, asked.stop
            found = [c for c in found if c[0] >= start and (stop is None or c[0] < stop)]
            if asked.session not in (0, SESSION):
                found = []
        elif asked.hist_access_type == "search":
            found = [c for c in found if fnmatchcase(c[1], asked.pattern or "*")]
            if asked.unique:
                found = list({code: (number, code) for number, code in found}.values())
        if asked.hist_access_type != "range" and asked.n is not None:
            found = found[-asked.n :] if asked.n > 0 else []
        rows: list[tuple[int, int, Any]] = [
            (SESSION, number, (code, None) if asked.output else code) for number, code in found
        ]
        return {"status": "ok", "history": rows}
