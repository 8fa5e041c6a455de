"""PEP 723: the block `# /// script` at the head of a cell, which says what the cell needs."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import declared
from sandbox_kernel.image.environments.declared import Declared

MARK = "# /// script"
# The expression of PEP 723, "Reference implementation".
_BLOCK = re.compile(
    r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$",
)


def find(code: str, base: str) -> Declared | None:
    """What a cell declares on top of an image; None when it has no such block.

    Raises ImageError for a block that is there twice, is never closed, or is no TOML.
    """
    if MARK not in code:
        return None
    blocks = [match for match in _BLOCK.finditer(code) if match["type"] == "script"]
    where = "# /// script"
    if len(blocks) != 1:
        why = "it is there twice" if blocks else "no line `# ///` ends it"
        if not blocks and not re.search(r"(?m)^# /// script$", code):
            return None
        raise ImageError(f"read `{where}` of the cell: {why}: have one block, as in PEP 723")
    lines = blocks[0]["content"].splitlines(keepends=True)
    text = "".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ImageError(f"read `{where}` of the cell: {shown(error)}: write TOML") from None
    found = declared.of_tables(where, document, document.get("tool"))
    words = ", ".join(found.requirements)
    return replace(found, reference=f"packages: {words}" if words else base, base=base)
