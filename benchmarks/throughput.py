"""Pairs per second, from Kafka to updated metrics, beside peers that do the same job on the same broker and input."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.entry import ENTRIES
from benchmarks.measure import Run, measure
from benchmarks.recording import Shape
from benchmarks.report import cell, figures, machine, print_wide, ratios

SHARES = {"faust": 0.05}
"""Of the input that slow contestants are given: rates are what is compared. The others get all of it.

It must be some commits long, or nothing of what is durable is paid for: Faust's are 3 s apart, Quix's 5.
"""
LEAST = 1000
"""Pairs that a share is not less than."""


def run(
    shape: Shape,
    *,
    rounds: int,
    names: Collection[str] = tuple(ENTRIES),
    shares: Mapping[str, float] = SHARES,
    broker: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the contestants in turn, *rounds* times over, and return figures and ratios.

    Args:
        shape: Of the input.
        rounds: How often each contestant runs.
        names: Who takes part.
        shares: Of the input, by contestant; 1 where not given.
        broker: ``host:port`` of one that runs; None: start one.
        say: Told of progress.

    Raises:
        Refused: A contestant did not do the job.
    """
    runs: dict[str, list[Run]] = {name: [] for name in ENTRIES if name in names}
    sizes = {name: max(min(shape.pairs, LEAST), round(shape.pairs * shares.get(name, 1.0))) for name in runs}
    with Arena(broker) as arena:
        for pairs in sorted(set(sizes.values())):
            say(f"recording {pairs:,} pairs")
            arena.recording(replace(shape, pairs=pairs))
        for number in range(rounds):
            # So that nobody always comes after the same one.
            turn = number % len(runs)
            for name, done in [*runs.items()][turn:] + [*runs.items()][:turn]:
                recording = arena.recording(replace(shape, pairs=sizes[name]))
                with arena.stage(recording) as stage:
                    contestant = ENTRIES[name].start(stage)
                    try:
                        done.append(measure(contestant, recording, ENTRIES[name].results))
                    finally:
                        contestant.close()
                last = done[-1]
                say(f"round {number + 1}: {name}: {last.per_second:,.0f} pairs/s, {last.per_cpu_second:,.0f} per CPU s")
    return {
        "shape": asdict(shape),
        "machine": machine(),
        "rounds": rounds,
        **{name: {**figures(done), "share": sizes[name] / shape.pairs} for name, done in runs.items()},
        **_ratios(runs),
    }


def _ratios(runs: Mapping[str, list[Run]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    kinds = (("streamapp", "", ("streamapp",)), ("same_job", "same_job_", ("streamapp", "same_job")))
    for own, prefix, left_out in kinds:
        ours = [run.per_cpu_second for run in runs.get(own, [])]
        each = {
            name: ratios(ours, [run.per_cpu_second for run in done])
            for name, done in runs.items()
            if ours and name not in left_out
        }
        found[f"{prefix}ratios"] = {name: ratio["median"] for name, ratio in each.items()}
        found[f"{prefix}ratios_spread"] = {name: [ratio["min"], ratio["max"]] for name, ratio in each.items()}
    return found


def show(report: Mapping[str, Any]) -> None:
    """Print a table."""
    shape = report["shape"]
    table = Table(
        title=f"{shape['pairs']:,} pairs, {shape['models']} models x {shape['groups']} groups, {shape['features']}"
        f" features, {report['rounds']} rounds: median (smallest to largest)",
        caption="CPU seconds are those of the contestant alone, system time included; ratios are of pairs per CPU"
        " second. The others' sums are not durable." + _shares(report),
    )
    table.add_column("contestant")
    for heading in ("seconds", "CPU s", "pairs/s", "pairs/CPU s", "peak MiB", "streamapp ÷ it", "same_job ÷ it"):
        table.add_column(heading, justify="right")
    for name in ENTRIES:
        if name in report:
            table.add_row(
                name,
                _cell(report[name], "seconds", ".1f"),
                _cell(report[name], "cpu_seconds", ".1f"),
                _cell(report[name], "pairs_per_second"),
                _cell(report[name], "pairs_per_cpu_second"),
                f"{report[name]['peak_memory_bytes'] / 2**20:,.0f}",
                *(_ratio(report, f"{prefix}ratios", name) for prefix in ("", "same_job_")),
            )
    print_wide(table)


def _ratio(report: Mapping[str, Any], kind: str, name: str) -> str:
    if name not in report[kind]:
        return ""
    least, most = report[f"{kind}_spread"][name]
    return cell(report[kind][name], least, most, ".2f")


def _cell(of: Mapping[str, Any], name: str, shape: str = ",.0f") -> str:
    least, most = of["spread"][name]
    return cell(of[name], least, most, shape)


def _shares(report: Mapping[str, Any]) -> str:
    fewer = [f"{name}: {report[name]['share']:.0%}" for name in ENTRIES if name in report and report[name]["share"] < 1]
    return f" Measured on a share of the input: {', '.join(fewer)}." if fewer else ""
