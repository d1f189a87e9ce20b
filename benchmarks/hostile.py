"""What the decoder takes for good events and for every kind of bad one.

Time is CPU time of this process, the smallest of the rounds: that is what the code needs, without what disturbed it.
"""

import gc
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.recording import Shape, events
from streamapp.core.events import Outcome, Prediction
from streamapp.stream.app import GC_THRESHOLDS
from streamapp.stream.codec import decode_outcomes, decode_predictions
from tests.hostile.generator import EVERYWHERE, LARGE, OUTCOMES, PREDICTIONS, Draw

BATCH = 2000
DECODERS: dict[str, Callable[[Sequence[bytes | None]], Any]] = {
    "predictions": decode_predictions,
    "outcomes": decode_outcomes,
}
MOST = 3.0
"""Times what a good one takes, that a bad one may."""

Values = list[bytes | None]


def add(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "hostile",
        help="What bad messages cost the decoder.",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--rounds", type=int, default=15, help="of each, interleaved (default 15)")


def _run(arguments: Any) -> tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], None]]:
    return run(rounds=arguments.rounds), show


def run(*, rounds: int) -> dict[str, Any]:
    """Measure; microseconds of CPU a message, and how many times that of a good one on the same topic."""
    good = _good()
    cases: dict[tuple[str, str], Values] = {}
    for topic, own in (("predictions", PREDICTIONS), ("outcomes", OUTCOMES)):
        cases[topic, "good"] = good[topic]
        for kind, (make, _) in {**EVERYWHERE, **own}.items():
            draw = Draw(1)
            cases[topic, kind] = [make(draw, msgspec.json.decode(value or b"")) for value in good[topic][:400]]
        cases[topic, "one bad in 2 000"] = [*good[topic][:-1], b"{"]
    raw = {
        "predictions": msgspec.json.Decoder(Prediction).decode,
        "outcomes": msgspec.json.Decoder(Outcome).decode,
    }
    best: dict[tuple[str, str], float] = {}
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        for _ in range(rounds):
            for (topic, kind), values in cases.items():
                _time(best, (topic, kind), lambda topic=topic, values=values: DECODERS[topic](values), len(values))
            for topic, decode in raw.items():
                _time(best, (topic, "msgspec alone"), lambda d=decode, t=topic: list(map(d, good[t])), BATCH)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    report: dict[str, Any] = {"rounds": rounds, "bound": MOST}
    for topic in DECODERS:
        base = best[topic, "good"]
        report[topic] = {
            kind: {"us": round(seconds * 1e6, 3), "ratio": round(seconds / base, 2), "large": kind in LARGE}
            for (at, kind), seconds in best.items()
            if at == topic
        }
    pair = sum(best[topic, "good"] for topic in DECODERS)
    report["pair_us"] = round(pair * 1e6, 3)
    report["pair_over_msgspec"] = round(pair / sum(best[topic, "msgspec alone"] for topic in DECODERS), 3)
    return report


def _good() -> dict[str, Values]:
    """Return one batch of each topic, as services send them."""
    found: dict[str, Values] = {"predictions": [], "outcomes": []}
    for topic, some in events(Shape(pairs=2 * BATCH), time.time()):
        found[topic] += [message for _, message in some]
    return {topic: values[:BATCH] for topic, values in found.items()}


def _time(best: dict[tuple[str, str], float], name: tuple[str, str], work: Callable[[], Any], count: int) -> None:
    began = time.process_time()
    work()
    best[name] = min(best.get(name, float("inf")), (time.process_time() - began) / count)


def show(report: Mapping[str, Any]) -> None:
    """Print a table."""
    table = Table(
        title=f"CPU µs a message, and times a good one: smallest of {report['rounds']} rounds",
        caption=f"A pair takes {report['pair_us']} µs, {report['pair_over_msgspec']} times what msgspec alone takes.",
    )
    table.add_column("what")
    for topic in DECODERS:
        table.add_column(topic, justify="right")
        table.add_column("÷ good", justify="right")
    kinds = {kind: None for topic in DECODERS for kind in report[topic]}
    for kind in kinds:
        cells = []
        for topic in DECODERS:
            found = report[topic].get(kind)
            cells += ["", ""] if found is None else [f"{found['us']:.2f}", f"{found['ratio']:.1f}"]
        table.add_row(kind, *cells)
    Console().print(table)
