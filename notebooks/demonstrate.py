"""`make demo`: runs the first notebook without a browser and prints what it proves.

The kernel is started as Jupyter starts it. Beside the cells of the notebook a few questions are
asked inside and answered outside, so that what is printed was measured on both sides.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

NOTEBOOK = Path(__file__).parent / "en/00-first-sandbox.ipynb"
KERNEL = "sandbox-python3"
SECONDS = 120


class Answer:
    """What one cell printed and showed, what was noted, and the error with which it ended."""

    def __init__(self) -> None:
        self.text = ""
        self.notes = ""
        self.error: tuple[str, str] | None = None

    def hear(self, message: dict[str, Any]) -> None:
        """One message of the iopub channel."""
        content = message["content"]
        match message["msg_type"]:
            case "stream" if content["name"] == "stderr":
                self.notes += content["text"]
            case "stream":
                self.text += content["text"]
            case "execute_result" | "display_data":
                self.text += content["data"].get("text/plain", "") + "\n"
            case "error":
                self.error = (content["ename"], content["evalue"])


def ask(client: BlockingKernelClient, code: str) -> Answer:
    """Run a cell; a kernel that dies over it has said why before."""
    answer = Answer()
    try:
        client.execute_interactive(code, output_hook=answer.hear, timeout=SECONDS)
    except RuntimeError:
        if answer.error is None:
            raise
    return answer


def main() -> int:
    """The exit status: 0 if everything that is printed as proved was so."""
    manager = KernelManager(kernel_name=KERNEL)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SECONDS)
        facts = list(_facts(manager, client))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    print("\nWhat this proves\n")
    for holds, name, detail in facts:
        print(f"  {'yes' if holds else 'NO '}  {name:<34}{detail}")
    if all(holds for holds, _, _ in facts):
        return 0
    print("\n`sandbox-kernel doctor` (in .venv/bin) prints what mends this machine.")
    return 1


def _facts(manager: KernelManager, client: BlockingKernelClient) -> list[tuple[bool, str, str]]:
    with tempfile.NamedTemporaryFile(prefix="canary-") as canary:
        paths = [canary.name, "/etc/shadow", str(NOTEBOOK), str(Path.home())]
        first = ask(client, f"import os\nprint([p for p in {paths!r} if os.path.isfile(p)])")
    if first.notes:
        print(first.notes.rstrip())
    count = "print(sum(name.isdigit() for name in os.listdir('/proc')))"
    inside = int(ask(client, count).text)
    outside = sum(name.isdigit() for name in os.listdir("/proc"))
    *before, last = _code_cells()
    first_facts = [
        (first.text.strip() == "[]", "the host's files are invisible", f"{len(paths)} looked for"),
        (
            inside == 2,
            "one process in the list",
            f"beside the init of the container; the host has {outside}",
        ),
    ]
    answers = []
    for cell in before:
        answers.append(_shown(client, cell.source))
        if failed := answers[-1].error:  # what comes next would run without its limits
            return [*first_facts, (False, "limits are read back", ": ".join(failed))]
    limits = next((answer.text for answer in answers if "memory" in answer.text), "")
    refused = next((answer.text for answer in answers if "children" in answer.text), "")
    error = _shown(client, last.source).error or ("", "")
    return [
        *first_facts,
        (
            "256 MiB" in limits and "64" in limits,
            "limits are read back",
            "memory 256 MiB, 64 processes",
        ),
        ("temporarily unavailable" in refused, "a fork bomb ends", refused.strip()),
        (error[0] == "OutOfMemory", "a memory limit ends a cell", error[1]),
        (_starts_again(manager, client), "and a restart goes on", "a new container answers"),
    ]


def _code_cells() -> list[Any]:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def _shown(client: BlockingKernelClient, code: str) -> Answer:
    """Run a cell of the notebook and print both sides of it."""
    print("\n" + "\n".join(f"  | {line}" for line in code.splitlines()))
    answer = ask(client, code)
    print(answer.text.rstrip() or "", end="\n" if answer.text else "")
    if answer.error:
        print(": ".join(answer.error))
    return answer


def _starts_again(manager: KernelManager, client: BlockingKernelClient) -> bool:
    # The same client: a second one of this manager has the same identity, and of two connections
    # with one identity a kernel answers only one.
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=SECONDS)
    return ask(client, "print(6 * 7)").text.strip() == "42"


if __name__ == "__main__":
    sys.exit(main())
