"""Read-only facts as plain data: what containers use against their limits, what is kept ready."""

from sandbox_kernel.observe.kept import Kept, by_the_holder, by_this_program
from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.observe.observer import INTERVAL, Observer
from sandbox_kernel.observe.sampling import Limits, Reading, Sample, sample

__all__ = [
    "INTERVAL", "Kept", "Limits", "Observed", "Observer", "Reading", "Sample", "by_the_holder",
    "by_this_program", "sample",
]  # fmt: skip
