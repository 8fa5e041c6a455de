"""`make fuzz SECONDS=600 [TARGET=name]`: feeds each reader of `fuzz_targets` for so long.

The seconds are of processor time, so that they are worth the same beside other work. Prints what
was fed to each; one that raises what it must not ends, with the smallest example that does so.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

import hypothesis
from fuzz_targets import TARGETS

AT_ONCE = 500


def feed(name: str, seed: int) -> None:
    """Some examples to one target. Raises what it raised."""
    target = TARGETS[name]
    some = hypothesis.settings(
        max_examples=AT_ONCE,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(seed)(some(hypothesis.given(target.fed)(target.try_one)))()


def main() -> int:
    """1 when a target has failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each target")
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    failed = []
    for name in given.target or TARGETS:
        end, count, seed = time.process_time() + given.seconds, 0, given.seed
        while time.process_time() < end:
            try:
                feed(name, seed)
            except Exception as error:
                print(f"{name}: seed {seed}: {type(error).__name__}: {error}", flush=True)
                for note in getattr(error, "__notes__", ()):
                    print(f"  {note}", flush=True)
                failed.append(name)
                break
            count, seed = count + AT_ONCE, seed + 1
        print(f"{name}: at most {count} examples from seed {given.seed} on", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
