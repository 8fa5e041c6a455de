"""Which faults a seed brings, and at which steps of the workload: pure, the same each time."""

from __future__ import annotations

import random
from typing import NamedTuple

WORK = ("fresh", "held", "network", "images", "kernel", "warm", "carry")
AT_ONCE = 3
"""Programs of a seed: more than that only wait for each other on a machine with two processors."""
ALWAYS = ("worker", "launcher", "maker", "pid 1", "payload")
THERE = {
    "held": ("agent",),
    "network": ("network", "network"),
    "images": ("images", "layers"),
    "kernel": ("relay",),
    "warm": ("relay", "relays"),
    "carry": ("relay", "agent"),
}
"""Whose processes there are with which work."""
CALLED = ("launcher", "maker", "worker", "network", "images", "relay")
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
    "the name of the warm holder", "the lock of a launcher removed",
    "the socket of a launcher removed", "the folder of a launcher removed",
    "the lock of ids removed", "the socket of the network removed",
)  # fmt: skip
DAMAGED_IN_THE_STORE = (
    "a bit of a blob", "the end of a blob", "a blob emptied", "the list of images",
    "the facts of a layer",
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
    """The call at which it happens; or which it is of several."""
    error: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        how = f" at call {self.nth} of {self.calls}" if self.calls else ""
        error = f" with {self.error}" if self.error else ""
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"point {self.number}, step {self.step}: {self.fault} {self.at}{how}{error}{lasts}"


def work(seed: int) -> tuple[str, ...]:
    """The programs of a seed: some of all kinds, each in as many seeds as the others."""
    first = seed * AT_ONCE
    return tuple(WORK[(first + number * (1 + seed % 2)) % len(WORK)] for number in range(AT_ONCE))


def points(seed: int, kinds: tuple[str, ...], count: int = 9) -> tuple[Point, ...]:
    """The points of a seed. Each kind of fault is among the first ones once."""
    chance = random.Random(seed)
    faults = ["kill", "stop", "fill", "damage", "delay", "kill at", "fail"]
    while len(faults) < count:
        faults.append(chance.choice(("kill", "kill at", "fail", "damage", "stop")))
    faults = faults[:count] if count >= len(faults) else chance.sample(faults, count)
    chance.shuffle(faults)
    there = [*ALWAYS, *(role for kind in kinds for role in THERE.get(kind, ()))]
    step = 0
    made = []
    for number, fault in enumerate(faults, 1):
        step += chance.randint(2, 9)
        made.append(_point(chance, Point(number, step, fault, ""), there))
    return tuple(made)


def _point(chance: random.Random, point: Point, there: list[str]) -> Point:
    with_store = "images" in there
    lasts = round(chance.uniform(0.4, 1.6), 1)
    match point.fault:
        case "kill":
            return point._replace(at=chance.choice(there), nth=chance.randrange(1 << 16))
        case "stop":
            at = chance.choice([role for role in there if role != "layers"])
            return point._replace(at=at, nth=chance.randrange(1 << 16), seconds=lasts)
        case "fill":
            return point._replace(at=chance.choice(FILLED), seconds=lasts)
        case "damage":
            choices = DAMAGED + DAMAGED_IN_THE_STORE * 2 * with_store
            return point._replace(at=chance.choice(choices), nth=chance.randrange(1 << 16))
        case "fail":
            calls = chance.choice(tuple(ERRORS))
            error = chance.choice(ERRORS[calls])
        case _:
            calls, error = chance.choice(CALLS), ""
    at = chance.choice([role for role in there if role in CALLED])
    if at in ("worker", "images") and error in ("ENOSPC", "EDQUOT"):
        error = "EIO"  # what a pipe says nowhere; a disk that is full is filled for real
    # What is made are a few calls of a kind, or some hundred of all.
    nth = chance.randint(1, 300) if calls == "all" else chance.choice((1, 1, 2, 3, 5, 8))
    return point._replace(at=at, calls=calls, nth=nth, error=error, seconds=2.5)
