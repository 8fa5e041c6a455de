"""A small form of `make chaos`: a few faults while cells run and images are built; then the rule.

`make chaos` brings more, and of more kinds, than there is time for here; `make soak` takes hours.
"""

from __future__ import annotations

import pytest
from chaos import __main__ as chaos

pytestmark = pytest.mark.root


@pytest.mark.fault(1)
@pytest.mark.fault(5)
@pytest.mark.fault(17)
def test_after_faults_at_numbered_points_nothing_is_lost_and_nothing_left() -> None:
    outcome = chaos.run(5, 4.0, ("fresh", "images"), count=7)
    assert outcome.findings == [], outcome.whole()
    assert outcome.saved > 0
    assert len(outcome.did) >= 7
