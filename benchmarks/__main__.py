"""``python -m benchmarks`` names them all: see ``--help`` of each."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import cost, curves, hostile, latency, publisher, replaying, restore, stages, stalls, throughput
from benchmarks.entry import ENTRIES
from benchmarks.recording import Shape


def main() -> None:
    """Run one benchmark and print what it found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")
    _throughput(commands)
    _cost(commands)
    _stages(commands)
    _curves(commands)
    for module in (publisher, replaying, latency, stalls, restore, hostile):
        module.add(commands)
    arguments = parser.parse_args()
    report, show = arguments.run(arguments)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


def _common(commands: Any, name: str, help: str, run: Callable[[Any], Any], *, pairs: int, rounds: int) -> Any:
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--pairs", type=int, default=pairs, help=f"prediction-outcome pairs (default {pairs:,})")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"runs of each, interleaved (default {rounds})")
    parser.add_argument("--broker", help="host:port of a Kafka that runs; default: start one")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _throughput(commands: Any) -> None:
    parser = _common(commands, "throughput", "Peers on the same job.", _run_throughput, pairs=1_000_000, rounds=3)
    parser.add_argument("--only", help=f"who takes part: some of {','.join(ENTRIES)}")
    parser.add_argument(
        "--share", action="append", default=[], help="share of the input for one of them, e.g. faust=0.1"
    )
    for name, default in (("models", 1), ("groups", 2), ("features", 6), ("partitions", 4)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--message-size", type=int, default=0, help="bytes of a prediction (default: what it has)")


def _run_throughput(arguments: Any) -> tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], None]]:
    names = arguments.only.split(",") if arguments.only else list(ENTRIES)
    if unknown := set(names) - set(ENTRIES):
        sys.exit(f"--only: expected some of {', '.join(ENTRIES)}, got {', '.join(sorted(unknown))}")
    if missing := [name for name in names if not ENTRIES[name].installed]:
        _say(f"not installed, so left out: {', '.join(missing)} (pip install 'streamapp[bench]')")
        names = [name for name in names if name not in missing]
    shares = dict(throughput.SHARES)
    for text in arguments.share:
        name, _, value = text.partition("=")
        shares[name] = float(value)
    shape = Shape(
        pairs=arguments.pairs,
        models=arguments.models,
        groups=arguments.groups,
        features=arguments.features,
        partitions=arguments.partitions,
        message_size=arguments.message_size,
    )
    report = throughput.run(
        shape, rounds=arguments.rounds, names=names, shares=shares, broker=arguments.broker, say=_say
    )
    return report, throughput.show


def _cost(commands: Any) -> None:
    parser = _common(commands, "cost", "CPU time of a pair when there is more.", _run_cost, pairs=300_000, rounds=3)
    parser.add_argument("--only", default="", help="some of models,pending,workers")


def _run_cost(arguments: Any) -> tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], None]]:
    only = tuple(filter(None, arguments.only.split(",")))
    report = cost.run(arguments.pairs, rounds=arguments.rounds, only=only, broker=arguments.broker, say=_say)
    return report, cost.show


def _stages(commands: Any) -> None:
    parser = _common(commands, "stages", "CPU time of a pair by stage.", _run_stages, pairs=500_000, rounds=3)
    parser.add_argument("--models", type=int, default=1, help="default 1")
    parser.add_argument("--groups", type=int, default=2, help="default 2")
    parser.add_argument("--picture", type=Path, help="file for a stacked bar, e.g. docs/stages.svg")


def _run_stages(arguments: Any) -> tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], None]]:
    shape = Shape(pairs=arguments.pairs, models=arguments.models, groups=arguments.groups)
    report = stages.run(shape, rounds=arguments.rounds, broker=arguments.broker, say=_say)
    if arguments.picture is not None:
        stages.draw(report, arguments.picture)
    return report, stages.show


def _curves(commands: Any) -> None:
    parser = _common(commands, "curves", "How cost grows, as pictures.", _run_curves, pairs=150_000, rounds=2)
    names = ",".join(curve.name for curve in curves.CURVES)
    parser.add_argument("--only", default="", help=f"some of {names}")
    parser.add_argument("--quick", action="store_true", help="the ends of the curves, small and once")
    parser.add_argument("--huge", action="store_true", help="also 10 000 models and 10 000 000 pending, once")
    parser.add_argument("--folder", type=Path, help="where pictures and figures go, e.g. docs/curves")


def _run_curves(arguments: Any) -> tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], None]]:
    report = curves.run(
        5_000 if arguments.quick else arguments.pairs,
        rounds=1 if arguments.quick else arguments.rounds,
        only=tuple(filter(None, arguments.only.split(","))),
        quick=arguments.quick,
        huge=arguments.huge,
        broker=arguments.broker,
        say=_say,
    )
    if arguments.folder is not None:
        for path in curves.draw(report, arguments.folder):
            _say(f"wrote {path}")
    return report, curves.show


if __name__ == "__main__":
    main()
