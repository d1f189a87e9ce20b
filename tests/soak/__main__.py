"""``python -m tests.soak``: run for a long time near the capacity, and say whether anything grows.

Workers have the first core, the broker, the load and we the others. The capacity is measured first, on a backlog. The
report is written whatever happens: Ctrl-C ends the load, waits for what is on its way, and judges what was seen.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks.process import cores
from tests.kafka import Given, Kafka
from tests.soak.judge import judge
from tests.soak.report import held, write
from tests.soak.run import SHARE, soak
from tests.soak.stage import Size

ROOT = Path(__file__).parents[2]
LONG = 30.0
"""Minutes from which a run is the long form: its report belongs into the documentation."""


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if everything was seen to hold."""
    args = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = args.report or (ROOT / "docs" if args.minutes >= LONG else ROOT / ".cache" / "soak")
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores()[1])
    broker = Given(args.broker) if args.broker else Kafka(memory="1g", fast_start=False)
    try:
        if isinstance(broker, Kafka):
            broker.start()
        size = Size(models=args.models)
        result = soak(broker.bootstrap, args.minutes, size, _say, rate=args.rate, share=args.share)
    finally:
        broker.stop()
        os.sched_setaffinity(0, ours)
    findings = judge(result)
    for finding in findings:
        _say(f"{ {True: 'holds', False: 'FAILS', None: 'unknown'}[finding.holds]:8} {finding.what}: {finding.found}")
    for path in write(folder, result, findings):
        _say(f"written: {path}")
    return 0 if held(findings) and not result.interrupted else 1


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="how long the load lasts (default 2)")
    parser.add_argument("--rate", type=float, help="predictions a second; default: a share of the measured capacity")
    parser.add_argument("--share", type=float, default=SHARE, help=f"of the capacity (default {SHARE:g})")
    parser.add_argument("--models", type=int, default=100, help="of two groups each (default 100)")
    parser.add_argument("--report", type=Path, help="folder; default: docs from 30 minutes on, else .cache/soak")
    parser.add_argument("--broker", help="host:port of a Kafka that runs; default: start one")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
