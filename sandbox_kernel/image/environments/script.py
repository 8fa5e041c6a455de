"""PEP 723: the block `# /// script` at the head of a cell, which says what the cell needs."""

from __future__ import annotations

import re
import tomllib

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import declared

MARK = "# /// script"
# The expression of PEP 723, "Reference implementation".
_BLOCK = re.compile(
    r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$",
)


def reference(code: str, base: str) -> str | None:
    """What a cell declares, as a reference on top of an image; None when it declares nothing.

    An environment as the base gives way to the cell's own, on the same image. Raises ImageError
    for a block that is there twice, is never closed, or is no TOML.
    """
    if MARK not in code:
        return None
    blocks = [match for match in _BLOCK.finditer(code + "\n") if match["type"] == "script"]
    if not blocks and not re.search(r"(?m)^# /// script$", code):
        return None  # it stands in a text
    doing = "read `# /// script` of the cell"
    if len(blocks) != 1:
        why = "it is there twice" if blocks else "no line `# ///` ends it"
        raise ImageError(f"{doing}: {why}: have one block, as in PEP 723")
    lines = blocks[0]["content"].splitlines(keepends=True)
    text = "".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ImageError(f"{doing}: {shown(error)}: write TOML") from None
    found = declared.of_tables("# /// script", document, document.get("tool"))
    words = list(found.requirements)
    if found.requires_python is not None:
        words.append(f"{declared.PYTHON}{found.requires_python}")
    if not words:
        return None
    if declared.is_environment(base):
        base = declared.split(base).base
    return str(declared.Split("packages", ", ".join(words), base, found.exclude_newer, None))
