"""The channel between who makes a container and its first process."""

from __future__ import annotations

import pytest

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import messages
from sandbox_kernel.oci import creating


def test_why_a_process_ended_is_heard_though_it_read_no_more() -> None:
    ours, theirs = messages.bare_pair()
    why = {"step": "check", "subject": "/proc", "why": "it is a link", "errno": 0}
    messages.send(theirs, {"at": "failed", **why})
    messages.send(ours, {"do": "known"})
    theirs.close()
    with pytest.raises(StepFailed, match="check `/proc`: it is a link"):
        creating.hear(ours, "ready")
    ours.close()
