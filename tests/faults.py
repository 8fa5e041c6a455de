"""Faults that a user's machine may have: after each of them everything is whole again.

A test that brings one about is marked `@pytest.mark.fault(NUMBER)`; `pytest -m fault` runs them
all, and `tests/unit/test_corpus.py` looks that each has one. `make chaos` mixes them at random.
"""

FAULTS: dict[int, str] = {
    1: "the launcher is killed, at any step",
    2: "the relay is killed while a cell runs",
    3: "pid 1, the holder of networks, or what carries output is killed",
    4: "launcher, relay or payload is stopped for a while, and goes on",
    5: "the disk is full, in a pull, an unpacking, a load or a write of state",
    6: "there are no inodes left",
    7: "a write fails or is short, a call is interrupted, or flushing fails",
    8: "a folder of ours is read-only, missing, somebody else's, or on a poor file system",
    9: "the machine was started again, and what is on disk is of the boot before",
    10: "the number of a dead process is a stranger's now",
    11: "the kernel kills launcher, relay or payload for want of memory",
    12: "the clock jumps by a year",
    13: "a layer was fetched by half when the program ended",
    14: "a registry, a proxy before it or who answers names drops, resets or stalls",
    15: "several programs do the same with one store, one network or one name",
    16: "who holds a lock is killed, or its file is removed by hand",
    17: "a file of state or a blob is cut, empty, or has a flipped bit",
    18: "the power goes: what was not flushed is gone",
    19: "control groups are missing, not delegated, read-only, or frozen by somebody else",
    20: "user namespaces are switched off, or no ids can be had",
    21: "the filter of system calls can't be built or installed",
    22: "something can't be unmounted or removed while it is cleaned up",
    23: "descriptors, processes or memory of the host run out",
    24: "a client of Jupyter closes its sockets, is slow, or sleeps",
    25: "the package is another version while containers run",
    26: "Ctrl-C, SIGTERM or SIGHUP, once or twice, at any step",
}

NOT_HAD: dict[str, str] = {
    "8, a folder on NFS": "the kernels of these machines have no client of it",
    "12, a machine that sleeps": "virtual machines and user-mode Linux can't be put to sleep",
    "14, a proxy of ours that dies": "there is none: names are answered, and packets let through, "
    "by the holder of networks and the kernel, see fault 3",
    "18, a disk that forgets what was not flushed": "there is no device mapper: the order of calls "
    "is looked at, and what a file system may leave is made by hand",
    "20, AppArmor and Yama": "neither is in these kernels",
}
"""Parts of faults that can't be brought about on these machines, and why. They count as nothing."""
