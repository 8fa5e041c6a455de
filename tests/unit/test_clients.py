"""jupyter_client in a template: what is put off is found, and is what it is without us."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

NAMES = "import json, jupyter_client; print(json.dumps([n for n in dir(jupyter_client)]))"
LATER = """
import json, sys
from sandbox_kernel.inside import clients
import ipykernel.kernelapp
parts = [f"jupyter_client.{part}" for part in ("manager", "kernelspec", "provisioning")]
early = [part for part in parts if part in sys.modules]
import jupyter_client
names = dir(jupyter_client)
assert jupyter_client.kernelspec.KernelSpecManager
from jupyter_client import *
from jupyter_client import manager
import jupyter_client.provisioning.local_provisioner as local
assert run_kernel is manager.run_kernel is jupyter_client.run_kernel
assert KernelManager is manager.KernelManager
assert LocalProvisioner is local.LocalProvisioner is jupyter_client.LocalProvisioner
assert issubclass(jupyter_client.AsyncKernelClient, jupyter_client.client.KernelClient)
try:
    jupyter_client.nothing
except AttributeError as error:
    said = str(error)
print(json.dumps([early, names, said]))
"""


def printed(code: str) -> list:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2], timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_managers_and_clients_are_found_when_somebody_asks() -> None:
    early, names, said = printed(LATER)
    assert early == []
    assert {name for name in printed(NAMES) if not name.startswith("_")} <= set(names)
    assert said == "module 'jupyter_client' has no attribute 'nothing'"
