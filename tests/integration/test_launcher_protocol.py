"""A launcher lives on, with its containers, whatever it is asked."""

from __future__ import annotations

import fuzz_launcher
import hypothesis


def test_no_request_ends_it() -> None:
    some = hypothesis.settings(
        max_examples=60,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    with fuzz_launcher.target() as target:
        for given in target.known:
            target.try_one(given)
        some(hypothesis.given(target.fed)(target.try_one))()
