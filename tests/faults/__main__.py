"""``python -m tests.faults``: run scenarios, again and again if asked to.

Each run prints its seed; ``--scenario NAME --seed N`` repeats one. With ``--report FILE`` every run is added to a file,
and runs that are in it already are not made again: so the long form can be made in parts.
"""

# ruff: noqa: T201
import argparse
import random
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from tests.faults.jobs import Crew, Job, Result
from tests.faults.mutants import MUTANTS
from tests.faults.results import Report
from tests.faults.run import SETTLED
from tests.faults.scenarios import SCENARIOS


def main() -> int:
    """Return 1 if any run failed."""
    args = _arguments()
    if args.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:36} {scenario.times:3}  {scenario.fault}")
        return 0
    report = Report(args.report) if args.report else None
    end = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    results: list[Result] = []
    with Crew(args.jobs) as crew:
        wanted = _jobs(args, report)
        under_way: set[Future[Result]] = set()
        while True:
            while len(under_way) < args.jobs and time.monotonic() < end and (job := next(wanted, None)) is not None:
                under_way.add(crew.submit(job))
            if not under_way:
                break
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for each in done:
                results.append(each.result())
                _tell(results[-1])
                if report is not None:
                    report.add(results[-1])
    for name in SCENARIOS:
        ours = [result for result in results if result.job.scenario == name]
        if ours:
            print(f"{name}: {sum(result.held for result in ours)} of {len(ours)} held")
    failed = [result for result in results if not result.held]
    for result in failed:
        print(f"again: python -m tests.faults {result.job}")
    return int(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--list", action="store_true", help="say which scenarios there are, and how often the long form runs each"
    )
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, help="of the first run; the next ones count up (default: drawn; long: 1)")
    parser.add_argument("--times", type=int, help="runs of each scenario (default: 1; with --long as --list says)")
    parser.add_argument("--long", action="store_true", help="as often, and outages as long, as is promised")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on a broker of its own (default: 1)")
    parser.add_argument("--minutes", type=float, help="begin no further run after so many")
    parser.add_argument("--report", type=Path, help="JSON file that every run is added to")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of predictions")
    parser.add_argument("--settled", type=float, default=SETTLED, help="seconds for everything to settle in the end")
    parser.add_argument("--mutant", choices=MUTANTS, help="run workers that have this defect")
    return parser.parse_args()


def _jobs(args: argparse.Namespace, report: Report | None) -> Iterator[Job]:
    first = args.seed if args.seed is not None else 1 if args.long else random.SystemRandom().randrange(1_000_000)
    done = {(run["scenario"], run["seed"], run["mutant"]) for run in report.runs()} if report is not None else set()
    for name in args.scenario or SCENARIOS:
        scenario = SCENARIOS[name]
        if scenario.cluster and not (args.long or args.scenario):
            continue
        times = args.times if args.times is not None else scenario.times if args.long else 1
        for seed in range(first, first + times):
            if (name, seed, args.mutant) not in done:
                yield Job(
                    scenario=name,
                    seed=seed,
                    long=args.long,
                    scale=args.scale,
                    mutant=args.mutant,
                    settled=args.settled,
                )


def _tell(result: Result) -> None:
    print(result.job, *result.story, sep="\n")
    if not result.held:
        print(f"  FAILED: {result.finding}")
    print(f"  took {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
