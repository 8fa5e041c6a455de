"""`--chmod`: an octal number, or clauses as chmod(1) has them, such as `u=rwX,go=rX`."""

from __future__ import annotations

import re

LARGEST = 0o7777
Clause = tuple[str, str, str]
"""Who, what to do, which rights."""
_CLAUSE = r"([ugoa]*)([-+=])([rwxXst]*)$"
_SHIFT = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


def read(text: str) -> int | list[Clause] | None:
    """The mode that a text is; None when it is none."""
    if re.fullmatch(r"[0-7]{1,5}", text):
        number = int(text, 8)
        return number if number <= LARGEST else None
    clauses: list[Clause] = []
    for part in text.split(","):
        match = re.match(_CLAUSE, part)
        if match is None or len(clauses) == 64:
            return None
        clauses.append((match[1] or "a", match[2], match[3]))
    return clauses


def apply(mode: int, clauses: list[Clause], *, folder: bool) -> int:
    """The bits of a file that has `mode` after these clauses; no umask holds."""
    for who, action, rights in clauses:
        everybody = "ugo" if "a" in who else who
        bits = mask = 0
        executable = folder or mode & 0o111
        for one in everybody:
            mask |= 7 << _SHIFT[one]
            for right in rights:
                if right in _BITS or (right == "X" and executable):
                    bits |= _BITS.get(right, 1) << _SHIFT[one]
        if "s" in rights:
            bits |= (0o4000 if "u" in everybody else 0) | (0o2000 if "g" in everybody else 0)
        if "t" in rights and ("a" in who or "o" in who):
            bits |= 0o1000
        if action == "+":
            mode |= bits
        elif action == "-":
            mode &= ~bits
        else:
            special = (0o4000 if "u" in everybody else 0) | (0o2000 if "g" in everybody else 0)
            # chmod(1): `=` leaves set-id bits of folders alone, unless they are named.
            mask |= 0 if folder and "s" not in rights else special
            mode = (mode & ~mask) | bits
    return mode
