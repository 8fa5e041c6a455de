"""Small forms of `make chaos` and `make soak`.

A few faults while cells run and images are built, and then the rule: `make chaos` brings more, and
of more kinds, than there is time for here. And hostile cells beside normal ones for 20 seconds:
`make soak SECONDS=300` takes five minutes, `make soak` two hours.
"""

from __future__ import annotations

import os

import pytest
from chaos import __main__ as chaos
from chaos import soak

pytestmark = pytest.mark.root


@pytest.mark.fault(1)
@pytest.mark.fault(5)
@pytest.mark.fault(17)
def test_after_faults_at_numbered_points_nothing_is_lost_and_nothing_left() -> None:
    outcome = chaos.run(5, 4.0, ("fresh", "images"), count=7)
    assert outcome.findings == [], outcome.whole()
    assert outcome.saved > 0
    assert len(outcome.did) >= 7


SOAK_SECONDS = 20.0
QUIET_LOAD, LENIENT_RATIO = 4.0, 3.0
"""Up to that load of the machine so few seconds tell something of time, and then only so much: the
ratio of 1.5 is promised of `make soak`, and asked of it there."""


@pytest.mark.timeout(180)
def test_hostile_cells_beside_normal_ones_leak_nothing_and_nothing_is_dropped() -> None:
    before = os.getloadavg()[0]
    outcome = soak.run(SOAK_SECONDS, rest=2.0, busy=5.0)
    outcome.show()
    assert outcome.leaks == []
    assert set(outcome.cells) == set(soak.HOSTILE)
    assert min(len(outcome.quiet), len(outcome.beside)) > 20
    if before < QUIET_LOAD:
        assert outcome.ratio < LENIENT_RATIO
