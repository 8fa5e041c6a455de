"""The requests of a launcher as a target of `make fuzz`: it answers, and its containers live on.

It needs the machine, so `tests/integration/test_launcher_protocol.py` feeds it a little.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fuzz_targets import ANY, Target, changed
from hypothesis import strategies as st

from sandbox_kernel import container, policy
from sandbox_kernel.container.process import ProcessSpec
from sandbox_kernel.runtime import requests
from sandbox_kernel.runtime.client import Launcher

NAME = "launcher-requests"
REQUEST = {
    "container": "x", "run": 1, "timeout": 1.0, "resources": {"memory": {"limit": 1}}, "plan": {},
    "process": {"args": ["true"], "env": []}, "numbers": [1], "do": "warm", "order": {},
    "recipe": "r", "kind": "k", "about": {"program": "x"}, "config": {"linux": {"namespaces": []}},
    "trees": [], "layers": [], "after": 0, "wait": False, "id": "a", "name": None, "warm": {},
    "joins": False, "outlives": False, "record": False, "hostname": "h", "logged": False,
    "seccomp_program": "", "storage_size": 1, "entries": [], "leases": [], "files": [],
}  # fmt: skip
KNOWN = (("limits", {"container": "x", "resources": [1]}), ("limits", {"container": []}))
"""The first ended the launcher."""
OPERATIONS = st.sampled_from([*requests.OPERATIONS, "", "nothing"])


def fed() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """An operation, but those that are to end a container, and a message."""
    harmless = OPERATIONS.filter(lambda name: name not in ("remove", "kill", "stop"))
    messages = st.one_of(changed(REQUEST), st.dictionaries(st.sampled_from([*REQUEST]), ANY))
    return st.tuples(harmless, messages.filter(lambda made: isinstance(made, dict)))


@contextlib.contextmanager
def target() -> Iterator[Target]:
    """With a launcher of its own, which has to be as it was at the end."""
    own = Launcher()
    spec = ProcessSpec(argv=("/bin/sh", "-c", "exit 7"))
    try:
        plan = policy.plan("program", memory="64m")
        with container.Container.create(plan, launcher=own) as living:

            def ask(given: tuple[str, dict[str, Any]]) -> None:
                operation, message = given
                wished = {key: value for key, value in message.items() if key != "op"}
                if wished.get("container") == "x":
                    wished["container"] = living.id
                channel = own.connect()
                try:
                    with contextlib.suppress(UnicodeError):  # half a pair is no message
                        channel.ask(operation, wished)
                finally:
                    channel.close()
                again = own.connect()
                try:
                    again.request("usage", {"container": living.id})
                finally:
                    again.close()

            yield Target(fed(), ask, known=KNOWN)
            # What was there before is still there, and as it was.
            assert living.run(spec).wait().status == 7
    finally:
        own.close()
