"""Read-only facts about containers as plain data: what one uses against its limits, over time."""

from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.observe.observer import INTERVAL, Observer
from sandbox_kernel.observe.sampling import Limits, Reading, Sample, sample

__all__ = ["INTERVAL", "Limits", "Observed", "Observer", "Reading", "Sample", "sample"]
