"""`make fuzz SECONDS=600 [TARGET=name] [ENGINE=atheris]`: feeds each reader of `fuzz_targets`.

The seconds are of processor time, so that they are worth the same beside other work; of the clock
for a launcher, which works elsewhere. Prints what was fed to each; one that raises what it must not
ends, with the smallest example that does so, or with atheris with the one that did.

`hypothesis` draws examples of what a target says that it is fed. `atheris` has libFuzzer choose the
bytes that they are drawn from, by which lines of the reader they lead to: `uv pip install atheris`,
or `pip install 'sandbox-kernel[fuzz]'`, where there is a wheel of it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hypothesis

if TYPE_CHECKING:
    from fuzz_targets import Target

AT_ONCE = 500
ANY_NUMBER = hypothesis.settings(
    max_examples=AT_ONCE,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
FIRST_INPUTS, LONGEST_INPUT = 50, 4096
FAILED = 77
"""As libFuzzer ends when a target raised."""


@contextlib.contextmanager
def opened(name: str) -> Iterator[Target]:
    """A target, and what has to live for it."""
    import fuzz_launcher
    from fuzz_targets import TARGETS

    if name == fuzz_launcher.NAME:
        with fuzz_launcher.target() as target:
            yield target
    else:
        yield TARGETS[name]


def names(engine: str) -> list[str]:
    """All targets. A launcher runs nothing in this process that atheris could look at."""
    import fuzz_launcher
    from fuzz_targets import TARGETS

    return [*TARGETS, *([fuzz_launcher.NAME] if engine == "hypothesis" else [])]


def feed(target: Target, seed: int) -> None:
    """Some examples to one target. Raises what it raised."""
    hypothesis.seed(seed)(ANY_NUMBER(hypothesis.given(target.fed)(target.try_one)))()


def with_hypothesis(name: str, seconds: float, seed: int) -> bool:
    """Whether a target held for so long."""
    import fuzz_launcher

    now = time.monotonic if name == fuzz_launcher.NAME else time.process_time
    first, count, good = seed, 0, True
    with opened(name) as target:
        end = now() + seconds
        while good and now() < end:
            try:
                feed(target, seed)
            except Exception as error:
                print(f"{name}: seed {seed}: {type(error).__name__}: {error}", flush=True)
                for note in getattr(error, "__notes__", ()):
                    print(f"  {note}", flush=True)
                good = False
            else:
                count, seed = count + AT_ONCE, seed + 1
    print(f"{name}: at most {count} examples from seed {first} on", flush=True)
    return good


def with_atheris(name: str, seconds: float, seed: int) -> bool:
    """The same, in an interpreter of its own: no reader is imported yet, and libFuzzer ends it."""
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-fuzz-") as corpus:
        some = random.Random(
            seed
        )  # of a byte or two, with which it would begin, no example is made
        for number in range(FIRST_INPUTS):
            Path(corpus, str(number)).write_bytes(some.randbytes(some.randrange(64, LONGEST_INPUT)))
        words = ["--engine", "atheris", "--target", name, "--alone", corpus]
        words += ["--seconds", str(seconds), "--seed", str(seed)]
        return subprocess.run([sys.executable, __file__, *words], check=False).returncode == 0


def _be_fed_by_atheris(name: str, seconds: float, seed: int, corpus: str) -> NoReturn:
    import atheris

    # Only of what is imported here it sees which lines an input leads to.
    with atheris.instrument_imports(include=["sandbox_kernel"], enable_loader_override=False):
        import fuzz_targets  # noqa: F401
    count, made, end = 0, 0, time.process_time() + seconds
    with opened(name) as target:
        one = ANY_NUMBER(hypothesis.given(target.fed)(target.try_one)).hypothesis.fuzz_one_input

        def ended(status: int) -> NoReturn:
            told = f"{made} examples of {count} inputs"
            print(f"{name}: {told} of atheris, from seed {seed} on", flush=True)
            os._exit(status)

        def feed_one(data: bytes) -> None:
            nonlocal count, made
            if time.process_time() >= end:
                ended(0)
            count += 1
            try:
                made += one(data) is not None
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}: {data.hex()}", flush=True)
                for note in getattr(error, "__notes__", ()):
                    print(f"  {note}", flush=True)
                ended(FAILED)

        options = [f"-seed={seed % (1 << 31) or 1}", "-verbosity=0", "-rss_limit_mb=0"]
        options += ["-timeout=60", "-len_control=0", f"-max_len={LONGEST_INPUT}"]
        atheris.Setup([sys.argv[0], *options, corpus], feed_one)
        atheris.Fuzz()
    os._exit(FAILED)  # it does not come back by itself


ENGINES = {"hypothesis": with_hypothesis, "atheris": with_atheris}


def main() -> int:
    """1 when a target has failed, 2 when the engine is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each target")
    parser.add_argument("--target", action="append")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--engine", choices=ENGINES, default="hypothesis")
    parser.add_argument("--alone", metavar="CORPUS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if importlib.util.find_spec(given.engine) is None:
        print(f"{given.engine} is not installed: `uv pip install --only-binary :all: atheris`")
        return 2
    if given.alone:
        _be_fed_by_atheris(given.target[0], given.seconds, given.seed, given.alone)
    known = names(given.engine)
    if unknown := [name for name in given.target or () if name not in known]:
        parser.error(f"{', '.join(unknown)}: no such target: {', '.join(known)}")
    chosen = given.target or known
    run = ENGINES[given.engine]
    failed = [name for name in chosen if not run(name, given.seconds, given.seed)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent)]
    sys.exit(main())
