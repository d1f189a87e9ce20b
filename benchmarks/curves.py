"""How cost grows: pairs per CPU second and memory against what there can be more of, as figures and pictures.

Two ways to measure. *core*: decode, join and score fed from memory, for what the broker adds nothing to but its share.
*worker*: one or more workers on Kafka, as shipped.
"""

import json
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from benchmarks import core, pictures
from benchmarks.arena import Arena
from benchmarks.cost import Case, run_case
from benchmarks.measure import Run
from benchmarks.recording import Shape
from benchmarks.report import cell, machine, print_wide

Way = Literal["core", "worker"]

MOST_BYTES = 400_000_000
"""Of one recording: where messages are large, there are fewer of them."""
QUICK_PENDING = 10_000


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Cost against one thing."""

    name: str
    across: str
    places: tuple[int, ...]
    ways: tuple[Way, ...]
    case: Callable[[Shape, int], Case]
    """What is run at a place."""
    memory: bool = False
    """Whether memory is drawn as well."""
    huge: tuple[int, ...] = ()
    """Places that take long: only when asked for."""


def _message(shape: Shape, size: int) -> Case:
    return Case(shape=replace(shape, message_size=size, pairs=min(shape.pairs, MOST_BYTES // size)))


def _models(shape: Shape, models: int) -> Case:
    return Case(shape=replace(shape, models=models))


def _workers(shape: Shape, workers: int) -> Case:
    wide = replace(shape, models=16, partitions=8)
    return Case(shape=wide, workers=workers, scored_partitions=4, held=True)


CURVES = (
    Curve(
        name="features",
        across="features of a prediction",
        places=(1, 3, 10, 30, 100),
        ways=("core", "worker"),
        case=lambda shape, n: Case(shape=replace(shape, features=n)),
    ),
    Curve(
        name="message-size",
        across="bytes of a prediction",
        places=(300, 1_000, 3_000, 10_000),
        ways=("core", "worker"),
        case=_message,
    ),
    Curve(
        name="models",
        across="models, of 2 groups each",
        places=(1, 10, 100, 1_000),
        ways=("core", "worker"),
        case=_models,
        memory=True,
        huge=(10_000,),
    ),
    Curve(
        name="groups",
        across="groups of one model",
        places=(1, 2, 4, 16, 64),
        ways=("core",),
        case=lambda shape, n: Case(shape=replace(shape, groups=n)),
    ),
    Curve(
        name="pending",
        across="predictions that wait for their outcome",
        places=(1_000, 10_000, 100_000, 1_000_000),
        ways=("core", "worker"),
        case=lambda shape, n: Case(shape=replace(shape, pending=n), held=True),
        memory=True,
        huge=(10_000_000,),
    ),
    Curve(
        name="partitions",
        across="partitions of predictions and outcomes",
        places=(1, 2, 4, 8, 16),
        ways=("worker",),
        case=lambda shape, n: Case(shape=replace(shape, partitions=n)),
    ),
    Curve(
        name="workers",
        across="workers that share one core (16 models, 8 partitions)",
        places=(1, 2, 4),
        ways=("worker",),
        case=_workers,
    ),
)


def run(
    pairs: int,
    *,
    rounds: int,
    only: Collection[str] = (),
    quick: bool = False,
    huge: bool = False,
    broker: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure every curve, place by place, *rounds* times over.

    Args:
        pairs: Of each place; a tenth of that in the core's first, uncounted part.
        rounds: How often.
        only: Names of curves; all where empty.
        quick: Only the ends of each curve, and those on Kafka for models alone: proves that it runs.
        huge: Also the places that take long, once.
        broker: ``host:port`` of one that runs; None: start one.
        say: Told of progress.
    """
    report: dict[str, Any] = {"machine": machine(), "pairs": pairs, "rounds": rounds, "curves": {}}
    with Arena(broker) as arena:
        for curve in CURVES:
            if only and curve.name not in only:
                continue
            found: dict[str, dict[int, list[dict[str, float]]]] = {way: {} for way in _ways(curve, quick)}
            for number in range(rounds):
                for place in _places(curve, quick, huge and not number):
                    case = curve.case(Shape(pairs=pairs), place)
                    for way in found:
                        point = _core(case.shape) if way == "core" else _worker(arena, case)
                        found[way].setdefault(place, []).append(point)
                        say(f"{curve.name} {place:,}: {way}: {point['pairs_per_cpu_second']:,.0f} pairs per CPU s")
            report["curves"][curve.name] = {"across": curve.across, "points": found}
    return report


def _ways(curve: Curve, quick: bool) -> Iterator[Way]:
    for way in curve.ways:
        if way == "core" or not quick or curve.name == "models":
            yield way


def _places(curve: Curve, quick: bool, huge: bool) -> tuple[int, ...]:
    if quick:
        return (curve.places[0], min(curve.places[-2], QUICK_PENDING))
    return curve.places + (curve.huge if huge else ())


def _core(shape: Shape) -> dict[str, float]:
    done = core.run(shape)
    return {"pairs_per_cpu_second": done.per_cpu_second, "memory_bytes": float(done.memory)}


def _worker(arena: Arena, case: Case) -> dict[str, float]:
    done: Run = run_case(arena, case)
    return {
        "pairs_per_cpu_second": done.per_cpu_second,
        "pairs_per_second": done.per_second,
        "memory_bytes": float(done.memory),
    }


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every curve, write the figures beside them, and return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = folder / "curves.json"
    figures.write_text(json.dumps(report, indent=1) + "\n")
    written = [figures]
    for curve in CURVES:
        points = report["curves"].get(curve.name, {}).get("points", {})
        if not points:
            continue
        written.append(folder / f"{curve.name}.svg")
        pictures.lines(
            written[-1],
            {_WAYS[way]: _values(places, "pairs_per_cpu_second") for way, places in points.items()},
            title=f"Pairs per CPU second against {curve.across.split(',')[0].split('(')[0].strip()}",
            across=curve.across,
            up="pairs per CPU second",
        )
        if curve.memory:
            written.append(folder / f"{curve.name}-memory.svg")
            pictures.lines(
                written[-1],
                {_MEMORY[way]: _values(places, "memory_bytes", 1 / 2**20) for way, places in points.items()},
                title=f"Memory against {curve.across.split(',')[0]}",
                across=curve.across,
                up="MiB",
            )
    return written


_WAYS = {"core": "core, fed from memory", "worker": "worker on Kafka"}
_MEMORY = {"core": "core: what the input added", "worker": "worker on Kafka: peak of the process"}


def _values(places: Mapping[Any, Any], name: str, scale: float = 1.0) -> dict[float, list[float]]:
    return {float(place): [point[name] * scale for point in points] for place, points in places.items()}


def show(report: Mapping[str, Any]) -> None:
    """Print a table."""
    table = Table(title=f"How cost grows, {report['rounds']} rounds: median (smallest to largest)")
    for heading in ("curve", "at", "measured on"):
        table.add_column(heading)
    for heading in ("pairs/CPU s", "MiB"):
        table.add_column(heading, justify="right")
    for name, curve in report["curves"].items():
        for way, places in curve["points"].items():
            for place, points in places.items():
                table.add_row(
                    name,
                    f"{int(place):,}",
                    way,
                    _spread([point["pairs_per_cpu_second"] for point in points]),
                    _spread([point["memory_bytes"] / 2**20 for point in points]),
                )
    print_wide(table)


def _spread(values: list[float]) -> str:
    return cell(statistics.median(values), min(values), max(values))
