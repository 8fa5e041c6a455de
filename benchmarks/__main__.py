"""The command: measures, and prints a Markdown table with the machine it was measured on."""

from __future__ import annotations

import argparse
import functools
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks import (
    builds,
    cells,
    containers,
    environments,
    images,
    kernels,
    mapping,
    networks,
    sizes,
    values,
    widgets,
)
from benchmarks.pairs import Amounts, Pair, Size
from sandbox_kernel.runtime import client

Set = Callable[[int], Iterator[Pair | Amounts | Size]]
SETS: dict[str, Set] = {
    "containers": containers.cold_runs,
    "oci": containers.command_runs,
    "cells": cells.rows,
    "kernels": kernels.pairs,
    "map": mapping.pairs,
    "sizes": sizes.sizes,
    "values": values.pairs,
    "images": images.rows,
    "builds": builds.rows,
    "environments": environments.rows,
    "networks": networks.rows,
    "widgets": widgets.rows,
}
HEADER = ("what", "ours", "peer", "ratio (quartiles)", "at most", "holds")


def main() -> int:
    """Returns 1 when a bound does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("set", nargs="*", choices=[*SETS, []], help="which ones; all by default")
    parser.add_argument("--rounds", type=int, default=40, help="of the quick ones (default 40)")
    parser.add_argument("--growth", type=float, default=widgets.GROWTH_SECONDS, metavar="SECONDS",
        help="for how long views are watched for growth (default %(default)g; promised: 1800)",
    )  # fmt: skip
    chosen = parser.parse_args()
    sets: dict[str, Set] = {
        **SETS,
        "widgets": functools.partial(widgets.rows, growth_seconds=chosen.growth),
    }
    print("\n".join(f"- {line}" for line in machine()))
    print()
    print("| " + " | ".join(HEADER) + " |")
    print("|" + " --- |" * len(HEADER), flush=True)
    holds = True
    for name in chosen.set or sets:
        for measured in sets[name](chosen.rounds):
            row = measured.row()
            holds &= row[-1] == "yes"
            print("| " + " | ".join(row) + " |", flush=True)
    return 0 if holds else 1


def machine() -> list[str]:
    """What the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    cgroups = client.shared().about["driver"]
    return [
        f"{_processor()}, {os.cpu_count()} processors, {memory:.0f} GiB of memory",
        f"Linux {platform.release()}, cgroup {cgroups}, "
        f"{'root' if os.getuid() == 0 else 'an ordinary user'}",
        f"Python {platform.python_version()}, ipykernel {version('ipykernel')}, "
        f"{_first_line([containers.RUNC, '--version'])}, "
        f"{_first_line([containers.BWRAP, '--version'])}",
        f"load when it began: {os.getloadavg()[0]:.2f}",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _first_line(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
