"""Kernels for tests: started as Jupyter does it, spoken to by jupyter_client."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

SECONDS = 300.0 if "SANDBOX_KERNEL_TEST_MACHINE" in os.environ else 30.0
"""For an answer; the machine with cgroup v2 is slow."""
ARGV = [sys.executable, "-m", "sandbox_kernel", "-f", "{connection_file}"]
CELLS = [sys.executable, "-m", "sandbox_kernel", "--cells", "-f", "{connection_file}"]


class Kernel:
    """A running kernel and a client of it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(self, code: str, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The reply, and the outputs of a cell."""
        return self.finish(self.client.execute(code, **options))

    def finish(self, msg_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The reply and the outputs of a request that was sent before."""
        outputs = []
        while True:
            message = self.client.get_iopub_msg(timeout=SECONDS)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            outputs.append(message)
            if message["content"].get("execution_state") == "idle":
                break
        while True:
            reply = self.client.get_shell_msg(timeout=SECONDS)
            if reply["parent_header"]["msg_id"] == msg_id:
                return reply, outputs

    def wait_for(self, kind: str, text: str = "") -> dict[str, Any]:
        """The next message of this kind on iopub."""
        while True:
            message = self.client.get_iopub_msg(timeout=SECONDS)
            if message["msg_type"] == kind and text in str(message["content"]):
                return message

    def control(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """A request on control, and its reply."""
        message = self.client.session.msg(kind, content)
        self.client.control_channel.send(message)
        while True:
            reply = self.client.get_control_msg(timeout=SECONDS)
            if reply["parent_header"]["msg_id"] == message["header"]["msg_id"]:
                return reply

    @property
    def pid(self) -> int:
        """Of the relay."""
        return self.manager.provisioner.process.pid  # type: ignore[union-attr]


class Starting:
    """A kernel with these options of its kernelspec, on its way.

    Without the warm holder: what a kernel consists of is then below its relay, for all to see.
    """

    def __init__(self, argv: list[str] = ARGV, **options: object) -> None:
        self.manager = KernelManager()
        environment = {"SANDBOX_KERNEL_OPTIONS": json.dumps({"holder": False, **options})}
        self.manager._kernel_spec = KernelSpec(
            argv=argv, language="python", display_name="Sandbox", interrupt_mode="message",
            env=environment,
        )  # fmt: skip
        self.manager.start_kernel()

    @contextmanager
    def ready(self) -> Iterator[Kernel]:
        """It answers; it is shut down at the end."""
        manager = self.manager
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=SECONDS)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
            if manager.is_alive():
                manager.shutdown_kernel()
            manager.cleanup_resources()


@contextmanager
def started(**options: object) -> Iterator[Kernel]:
    """A kernel with these options of its kernelspec; it is shut down at the end."""
    with Starting(**options).ready() as kernel:
        yield kernel


@contextmanager
def cells_started(**options: object) -> Iterator[Kernel]:
    """The same for "Sandbox Cells"."""
    with Starting(CELLS, **options).ready() as kernel:
        yield kernel


def install(folder: Path, name: str, argv: list[str] = ARGV, **options: object) -> None:
    """A kernelspec with these options in a folder of JUPYTER_PATH."""
    place = folder / "kernels" / name
    place.mkdir(parents=True)
    spec = {
        "argv": argv, "language": "python", "display_name": name, "interrupt_mode": "message",
        "env": {"SANDBOX_KERNEL_OPTIONS": json.dumps({"holder": False, **options})},
    }  # fmt: skip
    (place / "kernel.json").write_text(json.dumps(spec))
    os.environ["JUPYTER_PATH"] = str(folder)


def text_of(outputs: list[dict[str, Any]], name: str = "stdout") -> str:
    """What a cell wrote to one stream."""
    return "".join(
        m["content"]["text"]
        for m in outputs
        if m["msg_type"] == "stream" and m["content"]["name"] == name
    )
