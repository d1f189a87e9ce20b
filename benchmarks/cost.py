"""What a pair costs when there is more of everything: CPU time of streamapp, as ratios of interleaved runs."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.entry import Stage, streamapp, streamapp_results
from benchmarks.measure import Run, measure
from benchmarks.process import Contestant
from benchmarks.recording import Recording, Shape, model_name
from benchmarks.report import cell, figures, machine, print_wide, ratios
from streamapp.core.join import Limits

READY = 60.0
READ_RATE = 20_000
"""Predictions a second that a worker reads at least."""
UNNAMED = Limits().models
"""Models that are counted under their own names without being named in the settings."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """How streamapp is run."""

    shape: Shape
    workers: int = 1
    scored_partitions: int = 1
    held: bool = False
    """The pairs are shown only once all workers are ready, and what waits for ever has been read: else the first to
    start would do much of the work, and what is there before the pairs would count as theirs."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two cases and what they may differ by."""

    name: str
    title: str
    target: float
    above: Case
    below: Case


def comparisons(pairs: int) -> tuple[Comparison, ...]:
    """Return what is compared."""
    plain = Shape(pairs=pairs)
    wide = replace(plain, models=16, partitions=8)
    return (
        Comparison(
            name="models",
            title="100 models x 4 groups ÷ 1 x 2",
            target=1.2,
            above=Case(shape=replace(plain, models=100, groups=4)),
            below=Case(shape=plain),
        ),
        Comparison(
            name="pending",
            title="1 000 000 pending predictions ÷ 10 000",
            target=1.2,
            above=Case(shape=replace(plain, pending=1_000_000), held=True),
            below=Case(shape=replace(plain, pending=10_000), held=True),
        ),
        Comparison(
            name="workers",
            title="4 workers ÷ 1",
            target=1.15,
            above=Case(shape=wide, workers=4, scored_partitions=4, held=True),
            below=Case(shape=wide, workers=1, scored_partitions=4, held=True),
        ),
    )


def run_case(arena: Arena, case: Case) -> Run:
    """Run streamapp once on a case."""
    if case.held:
        with arena.held(case.shape) as (recording, release):
            return _run(arena, case, recording, release)
    return _run(arena, case, arena.recording(case.shape), None)


def _run(arena: Arena, case: Case, recording: Recording, release: Callable[[], None] | None) -> Run:
    with arena.stage(recording, scored_partitions=case.scored_partitions) as stage:
        many = case.shape.models > UNNAMED
        contestant = streamapp(stage, workers=case.workers, environ=_named(stage, case.shape) if many else {})
        try:
            if release is not None:
                wait_until_ready(contestant, case)
                release()
            # A summary of so many models takes longer than anybody waits for it.
            results = (lambda _: recording.truth) if many else streamapp_results
            return measure(contestant, recording, results)
        finally:
            contestant.close()


def _named(stage: Stage, shape: Shape) -> dict[str, str]:
    """Name all models in a models file: those that are not named count as others beyond a limit."""
    path = stage.folder / "models.toml"
    path.write_text("".join(f"[models.{model_name(number)}]\n" for number in range(shape.models)))
    return {"STREAMAPP_MODELS": str(path)}


def wait_until_ready(contestant: Contestant, case: Case) -> None:
    """Return once all workers are ready, all partitions are theirs, each has some, and what waits for ever does.

    Raises:
        RuntimeError: That takes too long.
    """
    deadline = time.monotonic() + READY + case.shape.pending / READ_RATE
    while True:
        joiners = [_joiners(process.get("/readyz")) for process in contestant.processes]
        waiting = math.fsum(process.sum("streamapp_pending_predictions{") for process in contestant.processes)
        if all(joiners) and sum(joiners) == case.shape.partitions and waiting == case.shape.pending:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"not ready in time, partitions by worker {joiners}, {waiting:.0f} predictions wait:"
                f" {contestant.tail()}"
            )
        time.sleep(0.2)


def _joiners(body: bytes | None) -> int:
    if body is None:
        return 0
    details = msgspec.json.decode(body).get("details") or {}
    return sum(str(task).startswith("joiner") for task in details.get("tasks", ()))


def run(
    pairs: int,
    *,
    rounds: int,
    only: Collection[str] = (),
    broker: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the comparisons, the two sides of each in turn, *rounds* times over."""
    report: dict[str, Any] = {"machine": machine(), "rounds": rounds, "comparisons": {}}
    with Arena(broker) as arena:
        for comparison in comparisons(pairs):
            if only and comparison.name not in only:
                continue
            runs: tuple[list[Run], list[Run]] = ([], [])
            for number in range(rounds):
                for done, case in zip(runs, (comparison.above, comparison.below), strict=True):
                    done.append(run_case(arena, case))
                newest = " and ".join(f"{1e6 / done[-1].per_cpu_second:.2f}" for done in runs)
                say(f"round {number + 1}: {comparison.title}: {newest} CPU µs a pair")
            report["comparisons"][comparison.name] = {
                "title": comparison.title,
                "target": comparison.target,
                "ratio": ratios(*([1 / one.per_cpu_second for one in done] for done in runs)),
                "above": figures(runs[0]),
                "below": figures(runs[1]),
            }
    return report


def show(report: Mapping[str, Any]) -> None:
    """Print a table."""
    table = Table(
        title=f"CPU time of streamapp a pair, {report['rounds']} rounds: median (smallest to largest)",
        caption=f"All workers share core {report['machine']['contestant_core']}.",
    )
    table.add_column("what")
    for heading in ("µs a pair", "µs a pair, below", "ratio", "target"):
        table.add_column(heading, justify="right")
    for each in report["comparisons"].values():
        ratio = each["ratio"]
        table.add_row(
            each["title"],
            *(_cost(each[side]) for side in ("above", "below")),
            cell(ratio["median"], ratio["min"], ratio["max"], ".2f"),
            f"≤ {each['target']:g}",
        )
    print_wide(table)


def _cost(of: Mapping[str, Any]) -> str:
    least, most = of["spread"]["cpu_microseconds_per_pair"]
    return cell(of["cpu_microseconds_per_pair"], least, most, ".2f")
