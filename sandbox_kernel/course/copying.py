"""The notebooks of the course as they are shipped, and copying them for a learner."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

from sandbox_kernel.course.texts import LANGUAGES
from sandbox_kernel.errors import InvalidOption

HERE = os.path.dirname(os.path.abspath(__file__))


class Copied(NamedTuple):
    """Paths in the learner's folder: those that were made, and those that were there already."""

    made: tuple[str, ...]
    kept: tuple[str, ...]


def shipped() -> str:
    """The folder that holds `en` and `zh`: beside this file when installed, else the checkout's."""
    installed = os.path.join(HERE, "notebooks")
    if os.path.isdir(installed):
        return installed
    return os.path.join(os.path.dirname(os.path.dirname(HERE)), "notebooks")


def copy(folder: str) -> Copied:
    """Copies every notebook into a folder, in which what is there stays as it is.

    A notebook gets its name when it is whole, so a copy that is stopped leaves no half of one.
    Raises InvalidOption where the folder can't be written to.
    """
    made: list[str] = []
    kept: list[str] = []
    source = shipped()
    try:
        for language in LANGUAGES:
            os.makedirs(os.path.join(folder, language), exist_ok=True)
            for name in sorted(os.listdir(os.path.join(source, language))):
                if not name.endswith(".ipynb"):
                    continue
                target = os.path.join(folder, language, name)
                with open(os.path.join(source, language, name), "rb") as file:
                    is_new = _place(file.read(), target)
                (made if is_new else kept).append(target)
    except OSError as error:
        allowed = f"a folder that you may write to ({error.strerror})"
        raise InvalidOption("FOLDER", folder, allowed) from error
    return Copied(tuple(made), tuple(kept))


def _place(content: bytes, target: str) -> bool:
    """Whether the file was made; one of that name is never replaced. Raises OSError."""
    partial = f"{target}.{os.getpid()}"
    try:
        with open(partial, "xb") as file:
            file.write(content)
        os.link(partial, target)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)
    return True
