"""Where the CPU time of a pair goes: a worker under load, by stage."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import pictures, staged
from benchmarks.arena import Arena
from benchmarks.entry import Stage, streamapp, streamapp_results
from benchmarks.measure import Run, measure
from benchmarks.process import Contestant
from benchmarks.recording import Recording, Shape
from benchmarks.report import figures, machine, print_wide

PATIENCE = 10.0
_NOTHING: dict[str, Any] = {
    "stages": dict.fromkeys(staged.STAGES, 0.0),
    "cpu_seconds": 0.0,
    "scored_bytes": 0,
    "entered": 0,
}


def run(
    shape: Shape, *, rounds: int, broker: str | None = None, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run streamapp with and without the clock around its stages, in turns; return CPU time by stage.

    Returns:
        ``stages``: by stage, CPU microseconds a pair, one for each round. ``entered_per_pair``: how often the clock is
        read for it, twice each time. ``clocked`` and ``plain``: figures of the runs with and without the clock.
    """
    plain: list[Run] = []
    clocked: list[Run] = []
    entries: list[float] = []
    stages: dict[str, list[float]] = {name: [] for name in staged.STAGES}
    with Arena(broker) as arena:
        recording = arena.recording(shape)
        for number in range(rounds):
            with arena.stage(recording) as stage:
                contestant = streamapp(stage)
                try:
                    plain.append(measure(contestant, recording, streamapp_results))
                finally:
                    contestant.close()
            with arena.stage(recording) as stage:
                run, found, entered = _clocked(stage, recording)
            clocked.append(run)
            entries.append(entered)
            for name, value in found.items():
                stages[name].append(value)
            say(f"round {number + 1}: {sum(found.values()):.2f} CPU µs a pair with the clock")
    return {
        "shape": asdict(shape),
        "machine": machine(),
        "rounds": rounds,
        "stages": stages,
        "entered_per_pair": statistics.median(entries),
        "plain": figures(plain),
        "clocked": figures(clocked),
    }


def _clocked(stage: Stage, recording: Recording) -> tuple[Run, dict[str, float], float]:
    """Return a run, CPU microseconds a pair by stage, and how often a stage is entered a pair."""
    path = stage.folder / "stages.json"
    contestant = streamapp(stage, module="benchmarks.staged", environ={staged.OUTPUT: str(path)})
    looks = [_NOTHING, _NOTHING]
    try:
        run = measure(
            contestant,
            recording,
            streamapp_results,
            at_warm=lambda: looks.__setitem__(0, _look(contestant, path)),
            at_end=lambda: looks.__setitem__(1, _look(contestant, path)),
        )
    finally:
        contestant.close()
    first, last = looks
    spent = {name: last["stages"][name] - first["stages"][name] for name in staged.STAGES}
    _share_fetching(spent, scored=last["scored_bytes"] - first["scored_bytes"], read=recording.bytes * _part(run))
    spent["other"] = last["cpu_seconds"] - first["cpu_seconds"] - sum(spent[name] for name in staged.STAGES[:-1])
    entered = (last["entered"] - first["entered"]) / run.pairs
    return run, {name: 1e6 * seconds / run.pairs for name, seconds in spent.items()}, entered


def _part(run: Run) -> float:
    """Return which part of the recording was measured."""
    return run.pairs / run.recorded


def _share_fetching(spent: dict[str, float], *, scored: float, read: float) -> None:
    """Give the fetching of scored its part of what was fetched together, by bytes."""
    part = spent["fetch"] * scored / max(scored + read, 1.0)
    spent["fetch"] -= part
    spent["fetch scored"] += part


def _look(contestant: Contestant, path: Path) -> dict[str, Any]:
    """Ask a worker for its totals.

    Raises:
        RuntimeError: It does not answer.
    """
    (process,) = contestant.processes
    path.unlink(missing_ok=True)
    process.signal(staged.SIGNAL)
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no totals within {PATIENCE:g} s: {process.tail()}")
        time.sleep(0.01)
    totals: dict[str, Any] = json.loads(path.read_text())
    return totals


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw a stacked bar."""
    medians = {name: statistics.median(values) for name, values in report["stages"].items()}
    shape = report["shape"]
    what = f"{shape['models']} model{'s' * (shape['models'] > 1)} x {shape['groups']} groups"
    pictures.stack(path, medians, title=f"CPU time of a pair by stage: {what}, {shape['features']} features")


def show(report: Mapping[str, Any]) -> None:
    """Print a table."""
    total = sum(statistics.median(values) for values in report["stages"].values())
    cost = report["clocked"]["cpu_microseconds_per_pair"] / report["plain"]["cpu_microseconds_per_pair"]
    table = Table(
        title=f"CPU time of a pair by stage, {report['rounds']} rounds: median (smallest to largest)",
        caption=f"Without the clock: {report['plain']['cpu_microseconds_per_pair']:.2f} µs; the clock costs"
        f" {cost - 1:.0%}. Other: event loops, Faust, timers.",
    )
    table.add_column("stage")
    table.add_column("µs a pair", justify="right")
    table.add_column("share", justify="right")
    for name, values in report["stages"].items():
        middle = statistics.median(values)
        table.add_row(name, f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})", f"{middle / total:.0%}")
    table.add_row("all", f"{total:.2f}", "")
    print_wide(table)
