"""Read-only facts as plain data: what containers are and use, what is kept ready; and who looks."""

from sandbox_kernel.observe.kept import Kept, by_the_holder, by_this_program
from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.observe.observer import Observer
from sandbox_kernel.observe.sampling import Limits, Reading, Sample, sample
from sandbox_kernel.observe.source import INTERVAL, Polled, Source
from sandbox_kernel.observe.use import Use

__all__ = [
    "INTERVAL", "Kept", "Limits", "Observed", "Observer", "Polled", "Reading", "Sample", "Source",
    "Use", "by_the_holder", "by_this_program", "sample",
]  # fmt: skip
