"""A workload of kernels and cells, faults at numbered points of it, and the rule that holds after.

`python -m chaos` (see `__main__`) is what `make chaos` runs. Of each seed `schedule` makes the
points; `crew` keeps the programs of `work` going and counts their steps; `faults` does at each
point what is due there; `rule` looks afterwards: nothing that was said to be saved is lost, nothing
is left, and everybody goes on.
"""
