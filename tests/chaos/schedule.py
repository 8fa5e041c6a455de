"""Which faults a seed brings, and at which steps of the workload: pure, the same each time."""

from __future__ import annotations

import random
from typing import NamedTuple

KILLED = (
    "worker", "launcher", "launcher", "maker", "maker", "agent", "pid 1", "pid 1", "payload",
    "network", "relay", "relays", "layers",
)  # fmt: skip
STOPPED = ("worker", "launcher", "maker", "agent", "pid 1", "payload", "network", "relay", "relays")
CALLED = ("launcher", "launcher", "maker", "worker", "network", "images", "images")
CALLS = (
    "all",
    "mkdir,mkdirat,openat,openat2",
    "write,pwrite64,writev",
    "clone,clone3,fork,vfork",
    "mount,move_mount,fsmount,open_tree,umount2",
    "sendmsg,recvmsg",
    "unlink,unlinkat,rmdir,rename,renameat,renameat2",
)
ERRORS = {
    "write,pwrite64,writev": ("ENOSPC", "EIO"),
    "mkdir,mkdirat": ("ENOSPC", "EDQUOT"),
    "openat,openat2": ("EMFILE", "ENFILE"),
    "fsync,fdatasync": ("EIO",),
    "rename,renameat,renameat2,link,linkat": ("ENOSPC", "EIO"),
    "unlink,unlinkat,rmdir": ("EBUSY", "EIO"),
    "clone,clone3,fork,vfork": ("EAGAIN", "ENOMEM"),
    "mount,move_mount,fsmount,fsopen,open_tree": ("ENOMEM", "EBUSY"),
    "umount2": ("EBUSY",),
    "socketpair,socket,accept4": ("EMFILE", "ENFILE"),
    "setns,unshare": ("ENOMEM",),
}
DAMAGED = (
    "a bit of a blob", "the end of a blob", "a blob emptied", "the list of images",
    "the facts of a layer", "the name of the warm holder", "the lock of a launcher removed",
    "the socket of a launcher removed", "the folder of a launcher removed",
    "the lock of ids removed", "the socket of the network removed",
)  # fmt: skip
FILLED = ("disk", "inodes", "pids", "descriptors")


class Point(NamedTuple):
    """One fault. It is due when the workload has taken `step` steps."""

    number: int
    step: int
    fault: str
    at: str
    """Whose process, or what is damaged or filled up."""
    calls: str = ""
    nth: int = 0
    """The call at which it happens; of what there are several, which."""
    error: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        how = f" at call {self.nth} of {self.calls}" if self.calls else ""
        error = f" with {self.error}" if self.error else ""
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"point {self.number}, step {self.step}: {self.fault} {self.at}{how}{error}{lasts}"


def points(seed: int, count: int = 9) -> tuple[Point, ...]:
    """The points of a seed. The first ones are of each kind once."""
    chance = random.Random(seed)
    kinds = ["kill", "stop", "fill", "damage", "delay", "kill at", "fail"]
    while len(kinds) < count:
        kinds.append(chance.choice(("kill", "kill at", "fail", "damage", "stop")))
    kinds = kinds[:count]
    chance.shuffle(kinds)
    step = 0
    made = []
    for number, kind in enumerate(kinds, 1):
        step += chance.randint(2, 9)
        made.append(_point(chance, number, step, kind))
    return tuple(made)


def _point(chance: random.Random, number: int, step: int, kind: str) -> Point:
    nth = chance.randrange(1 << 16)
    match kind:
        case "kill":
            return Point(number, step, kind, chance.choice(KILLED), nth=nth)
        case "stop":
            seconds = chance.uniform(0.3, 2.0)
            return Point(number, step, kind, chance.choice(STOPPED), nth=nth, seconds=seconds)
        case "fill":
            seconds = chance.uniform(0.5, 1.5)
            return Point(number, step, kind, chance.choice(FILLED), nth=nth, seconds=seconds)
        case "damage":
            return Point(number, step, kind, chance.choice(DAMAGED), nth=nth)
        case "fail":
            calls = chance.choice(tuple(ERRORS))
            error = chance.choice(ERRORS[calls])
        case _:
            calls = chance.choice(CALLS)
            error = ""
    # Most work is a few calls of a kind, or some hundred of all.
    nth = chance.randint(1, 300) if calls == "all" else chance.choice((1, 1, 2, 3, 5, 8))
    return Point(number, step, kind, chance.choice(CALLED), calls, nth, error, 2.5)
