"""Escapes in text: colours stay, and whatever else a terminal would obey is taken out."""

from __future__ import annotations

import codecs
import re

_COLOUR = r"\x1b\[[0-9;:]{0,64}m"
_OTHER = (
    r"\x1b\[[0-?]*[ -/]*[@-~]?"  # CSI: cursor, erase, modes, reports
    r"|\x1b\][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # OSC: titles, clipboard, links
    r"|\x1b[PX^_][^\x1b\x9c\n]*(?:\x1b\\|\x9c)?"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"
    r"|\x9b[0-?]*[ -/]*[@-~]?|\x9d[^\x07\x9c\n]*[\x07\x9c]?"
    r"|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"
)
_ESCAPES = re.compile(f"({_COLOUR})|{_OTHER}")
_HALF = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[ -/]+|[\]PX^_][^\x07\x1b\x9c\n]*)?")
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_IN_JSON = (
    (b"\\", re.compile(rb"\\(?:u00[0189]|f)")),
    (b"\x7f", re.compile(rb"\x7f")),
    (b"\xc2", re.compile(rb"\xc2[\x80-\x9f]")),
)
"""How what is taken out begins in JSON, where control characters of ASCII stand escaped, and how it
goes on."""
_AT_ONCE, _MORE = 64 << 10, 5
"""A piece that is looked through, which the processor's cache holds, and what one that begins in
it may have behind it."""


def cleaned(text: str) -> str:
    """The text with its colours, line ends, tabs and backspaces, and no other control."""
    if _CONTROL.search(text) is None:  # in a sixth of the time of what follows
        return text
    return _ESCAPES.sub(lambda found: found[1] or "", text)


def has_escapes(json: bytes | bytearray | memoryview) -> bool:
    """Whether a string in JSON may have something to clean; False is sure."""
    # Most have nothing that even begins so. To copy a piece costs less than to search anything but
    # `bytes`, and less than a copy of all, each page of which would be new.
    whole = memoryview(json)
    for start in range(0, len(whole), _AT_ONCE):
        piece = bytes(whole[start : start + _AT_ONCE + _MORE])
        if any(begin in piece and found.search(piece) for begin, found in _IN_JSON):
            return True
    return False


class Stream:
    """The same for bytes that come in pieces; what may be half an escape waits for the rest."""

    MOST = 4096

    def __init__(self) -> None:
        self._rest = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def clean(self, data: bytes) -> bytes:
        """What of it can go out now."""
        text = self._rest + self._decode(data)
        self._rest = ""
        at = text.rfind("\x1b", -self.MOST)
        if data and at >= 0 and _HALF.fullmatch(text, at):
            text, self._rest = text[:at], text[at:]
        return cleaned(text).encode("utf-8", "replace")
