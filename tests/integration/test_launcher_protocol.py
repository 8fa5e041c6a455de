"""A launcher lives on, with its containers, whatever it is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from fuzz_targets import ANY, changed
from hypothesis import strategies as st

from sandbox_kernel import container, policy
from sandbox_kernel.container.process import ProcessSpec
from sandbox_kernel.runtime import launcher
from sandbox_kernel.runtime.client import Launcher

REQUEST = {
    "container": "x", "run": 1, "timeout": 1.0, "resources": {"memory": {"limit": 1}}, "plan": {},
    "process": {"args": ["true"], "env": []}, "numbers": [1], "do": "warm", "order": {},
    "recipe": "r", "kind": "k", "about": {"program": "x"}, "config": {"linux": {"namespaces": []}},
    "trees": [], "layers": [], "after": 0, "wait": False, "id": "a", "name": None, "warm": {},
    "joins": False, "outlives": False, "record": False, "hostname": "h", "logged": False,
    "seccomp_program": "", "storage_size": 1, "entries": [], "leases": [], "files": [],
}  # fmt: skip
OPERATIONS = st.sampled_from([*launcher._OPERATIONS, "", "nothing"])


@pytest.fixture
def own() -> Iterator[Launcher]:
    made = Launcher()
    yield made
    made.close()


def test_no_request_ends_it(own: Launcher) -> None:
    spec = ProcessSpec(argv=("/bin/sh", "-c", "exit 7"))
    with container.Container.create(policy.plan("program", memory="64m"), launcher=own) as living:

        def ask(operation: Any, message: Any) -> None:
            wished = {key: value for key, value in dict(message).items() if key != "op"}
            if wished.get("container") == "x":
                wished["container"] = living.id
            channel = own.connect()
            try:
                with contextlib.suppress(UnicodeError):  # half a pair is no message
                    channel.ask(operation, wished)
            finally:
                channel.close()
            about = own.connect()
            try:
                assert about.request("about", {})["event"] == "about"
            finally:
                about.close()

        some = hypothesis.settings(
            max_examples=60, deadline=None, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        harmless = OPERATIONS.filter(lambda name: name not in ("remove", "kill", "stop"))
        messages = st.one_of(changed(REQUEST), st.dictionaries(st.sampled_from([*REQUEST]), ANY))
        fed = hypothesis.given(harmless, messages.filter(lambda made: isinstance(made, dict)))
        some(fed(ask))()
        # What was there before is still there, and as it was.
        assert living.run(spec).wait().status == 7
