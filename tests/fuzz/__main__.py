"""`python -m tests.fuzz`: a sweep by hand; see `--help`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes are forked

from tests.fuzz import sweep


def main() -> int:
    arguments = argparse.ArgumentParser(
        "python -m tests.fuzz", description="Runs malformed input through every command."
    )
    arguments.add_argument("--surface", nargs="*", choices=sorted(sweep.surfaces()), help="default: all")
    arguments.add_argument("--cases", type=int, default=300, help="of all surfaces together")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--case", type=int, help="runs this one alone, and prints what came of it")
    arguments.add_argument("--verbose", action="store_true", help="prints what came of every case")
    options = arguments.parse_args()
    names = options.surface or list(sweep.surfaces())
    counts: Counter[str] = Counter()
    bad = []
    started = time.monotonic()
    for name in names:
        numbers = range(-(-options.cases // len(names))) if options.case is None else [options.case]
        begun = time.monotonic()
        for outcome in sweep.sweep(name, numbers, options.seed):
            counts["bad" if outcome.bad else "good"] += 1
            if outcome.bad:
                bad.append(outcome)
                reason = outcome.bad.strip().splitlines()
                print(f"BAD  {replay(name, options.seed, outcome.number)}\n     {reason[0]} {reason[-1]}", flush=True)
            if options.verbose or options.case is not None:
                print(f"{name} {outcome.number} ({outcome.seconds:.1f} s): {outcome.said}\n{outcome.bad}", flush=True)
        print(f"{name}: {len(numbers)} cases in {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{counts.total()} cases in {time.monotonic() - started:.0f} s, {len(bad)} bad")
    for outcome in bad:
        print(f"  {replay(outcome.surface, options.seed, outcome.number)}")
    return bool(bad)


def replay(surface: str, seed: int, number: int) -> str:
    return f"python -m tests.fuzz --surface {surface} --seed {seed} --case {number}"


sys.exit(main())
