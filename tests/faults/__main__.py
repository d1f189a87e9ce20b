"""``python -m tests.faults``: run scenarios, again and again if asked to.

Each run prints its seed; ``--scenario NAME --seed N`` repeats one.
"""

# ruff: noqa: T201
import argparse
import random
import time
import traceback
from collections import Counter

from tests.faults.mutants import MUTANTS, command
from tests.faults.run import SETTLED, WORKER, Broker, Run
from tests.faults.scenarios import SCENARIOS

LONG_TIMES = 20
LONG_SCALE = 4.0


def main() -> int:
    """Return 1 if any run failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, help="of the first run; the next ones count up (default: drawn)")
    parser.add_argument("--times", type=int, help=f"runs of each scenario (default: 1; with --long {LONG_TIMES})")
    parser.add_argument("--long", action="store_true", help=f"{LONG_SCALE:g} times the input, more runs")
    parser.add_argument("--scale", type=float, help="factor on the number of predictions")
    parser.add_argument("--settled", type=float, default=SETTLED, help="seconds for everything to settle in the end")
    parser.add_argument("--mutant", choices=MUTANTS, help="run workers that have this defect")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1_000_000)
    times = args.times or (LONG_TIMES if args.long else 1)
    scale = args.scale or (LONG_SCALE if args.long else 1.0)
    start = command(args.mutant) if args.mutant else WORKER
    results: Counter[tuple[str, str]] = Counter()
    failures = []
    with Broker() as broker:
        for name in args.scenario or SCENARIOS:
            for number in range(seed, seed + times):
                print(f"{name}, seed {number}, scale {scale:g}", flush=True)
                began = time.monotonic()
                try:
                    with Run(broker, number, command=start, echo=say, scale=scale, settled=args.settled) as run:
                        SCENARIOS[name](run)
                        run.check()
                except Exception as error:  # all of them are to be counted
                    failures.append(f"--scenario {name} --seed {number} --scale {scale:g}")
                    results[name, "failed"] += 1
                    if not isinstance(error, AssertionError):
                        traceback.print_exc()
                    print(f"  FAILED: {error}", flush=True)
                else:
                    results[name, "passed"] += 1
                print(f"  took {time.monotonic() - began:.0f} s", flush=True)
    for name in args.scenario or SCENARIOS:
        print(f"{name}: {results[name, 'passed']} passed, {results[name, 'failed']} failed")
    for failure in failures:
        print(f"again: python -m tests.faults {failure}")
    return int(bool(failures))


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
