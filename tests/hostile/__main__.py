"""``python -m tests.hostile``: a long hostile stream through a worker on a real Kafka, with a report.

First all of it; then, by turns, good events alone and the same with bad ones between them: the difference is what the
bad ones cost.
"""

# ruff: noqa: T201
import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.hostile.generator import Generator
from tests.hostile.run import Trial, trial
from tests.kafka import Kafka

HUGE = 0.0005
"""Share of the bad messages that are as large as the broker takes."""
RATIO = 3.0
"""Times what a good message costs that a bad one may."""
MEMORY = 400
"""MiB that a worker may need beyond what it needs for nothing."""


def main() -> int:
    """Return 1 if anything was not as it has to be."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="in the mixed stream (default: 1,000,000)")
    parser.add_argument("--bad", type=float, default=1.0, help="bad messages for each good one (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="of a quarter each, to tell what bad ones cost")
    parser.add_argument("--seed", type=int, help="of the stream (default: drawn)")
    parser.add_argument("--json", action="store_true", help="print one object")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1_000_000)
    pairs = int(args.messages / 2 / (1 + args.bad))
    timeout = 120 + args.messages / 1000
    trials: dict[str, Trial] = {}
    runs = [("whole", pairs, args.bad, HUGE)]
    for number in range(args.rounds):
        runs += [(f"good-{number}", pairs // 4, 0.0, 0.0), (f"mixed-{number}", pairs // 4, args.bad, 0.0)]
    kafka = Kafka(memory="1g", fast_start=False)
    try:
        kafka.start()
        with tempfile.TemporaryDirectory() as folder:
            for name, some, bad, huge in runs:
                print(f"{name}, seed {seed}", flush=True)
                messages = Generator(some, seed, bad=bad, huge=huge, now=time.time())
                trials[name] = trial(kafka.bootstrap, Path(folder) / name, f"{name}.", messages, timeout=timeout)
    finally:
        kafka.stop()
    report = summary(trials)
    problems = [f"{name}: {problem}" for name, each in trials.items() for problem in each.problems]
    problems += beyond(report)
    if args.json:
        print(json.dumps({"seed": seed, **report, "problems": problems}, indent=2))
    else:
        for name, value in report.items():
            print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
        print("\n".join(problems) or "everything was as it has to be")
        print(f"again: python -m tests.hostile --messages {args.messages} --bad {args.bad:g} --seed {seed}")
    return int(bool(problems))


def beyond(report: dict[str, Any]) -> list[str]:
    """Return which bounds were not kept."""
    grown = report["resident_mib_peak"] - report["resident_mib_idle"]
    found = [f"it grew by {grown} MiB, at most {MEMORY} are allowed"] if grown > MEMORY else []
    ratio = report.get("bad_over_good", 0.0)
    return [*found, *([f"a bad message cost {ratio} times a good one, at most {RATIO:g}"] if ratio > RATIO else [])]


def summary(trials: dict[str, Trial]) -> dict[str, Any]:
    """Return what was sent, what became of it, and what it cost."""
    whole = trials["whole"]
    fates: Counter[str] = Counter()
    for (_, fate), n in whole.sent.items():
        fates[fate] += n
    report: dict[str, Any] = {
        "messages": whole.good + whole.bad,
        "megabytes": round(whole.bytes / 1e6),
        "kinds": len(whole.kinds),
        "good": whole.good,
        "bad": whole.bad,
        "fates": dict(sorted(fates.items())),
        "resident_mib_idle": round(whole.rss_before / 2**20),
        "resident_mib_peak": round(whole.rss_peak / 2**20),
        "cpu_us_per_message": round(whole.cpu / (whole.good + whole.bad) * 1e6, 1),
    }
    ratios = []
    for name, mixed in trials.items():
        if name.startswith("mixed"):
            good = trials[name.replace("mixed", "good")]
            each = good.cpu / good.good
            # Lies that are not refused but counted as what they are (duplicates, outcomes of nothing) are bad ones too.
            lies = mixed.good - 2 * mixed.pairs
            extra = (mixed.cpu - 2 * mixed.pairs * each) / (mixed.bad + lies)
            ratios.append(extra / each)
            report[name] = {
                "cpu_us_per_good": round(each * 1e6, 1),
                "cpu_us_per_bad": round(extra * 1e6, 1),
                "bad_over_good": round(extra / each, 2),
                "bytes_per_good": round(good.bytes / good.good),
                "bytes_per_bad": round(mixed.bytes_refused / mixed.bad),
                "resident_mib_peak_good_and_mixed": [round(each.rss_peak / 2**20) for each in (good, mixed)],
            }
    if ratios:
        report["bad_over_good"] = round(statistics.median(ratios), 2)
    return report


if __name__ == "__main__":
    raise SystemExit(main())
