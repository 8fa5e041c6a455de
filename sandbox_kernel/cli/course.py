"""`sandbox-kernel course`: the notebooks of the course, in a folder of the learner's own."""

from __future__ import annotations

import os

from sandbox_kernel.arguments import Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import Verb
from sandbox_kernel.course import copying

FOLDER = "sandbox-course"


def course(found: Parsed) -> int:
    """Copies what is not there yet, and says so."""
    folder = found.rest[0] if found.rest else FOLDER
    copied = copying.copy(folder)
    rows = [(path, "new") for path in copied.made]
    rows += [(path, "left as it was") for path in copied.kept]
    output.table(("notebook", "copy"), sorted(rows))
    where = os.path.join(folder, "en"), os.path.join(folder, "zh")
    print(f"English: `jupyter lab {where[0]}`, Chinese: `jupyter lab {where[1]}`")
    return 0


VERBS = {
    "course": Verb(
        "course [FOLDER]",
        f"Copy the notebooks of the course into FOLDER (`{FOLDER}` if none is named). A notebook "
        "that is there already stays as it is.",
        course,
        most=1,
    ),
}
