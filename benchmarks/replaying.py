"""``streamapp replay`` beside the core that it runs, on the same events.

The input: predictions with six features and their outcomes, two files of JSON lines, outcomes delayed and out of order.

- *replay*: ``python -m streamapp replay --json`` as a person runs it. All CPU seconds of the process count: start and
  imports, reading, decoding, sorting, joining, scoring, the summary.
- *start*: the same with empty files, to see how much of it is due to the start.
- *core*: the core fed from memory. Events are decoded, sorted and cut into batches beforehand, in a process of its own
  of which only the CPU seconds of joining, scoring and summing up count. (Bytes in memory, to be decoded by the core's
  side, would be the easier comparison; its cost is shown as *decode*.)

What has to hold is pairs per CPU second of *replay*, its start included, divided by those of *core*. Each runs once in
every round, one after the other on the same processor core; both must come to the same summary.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.process import cores
from benchmarks.recording import Shape, events
from benchmarks.report import cell, machine, ratios

LAST = 1_770_000_000.0
"""Time of the last prediction."""


def add(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "replay",
        help="streamapp replay beside the core alone.",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="prediction-outcome pairs (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, interleaved (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round of 5,000 pairs: shows that it runs")


def _run(arguments: Any) -> tuple[Mapping[str, Any], Any]:
    pairs, rounds = (5_000, 1) if arguments.quick else (arguments.pairs, arguments.rounds)
    return run(pairs=pairs, rounds=rounds), show


def run(*, pairs: int, rounds: int) -> dict[str, Any]:
    """Measure, and return CPU seconds and ratios.

    Raises:
        RuntimeError: Replay and the core came to different summaries.
    """
    found: dict[str, list[float]] = {name: [] for name in ("replay", "start", "core", "decode")}
    with tempfile.TemporaryDirectory(prefix="streamapp-bench-") as temporary:
        folder = Path(temporary)
        files, nothing = _write(folder, pairs), _write(folder / "nothing", 0)
        for _ in range(rounds):
            cpu, output = _cpu(["-m", "streamapp", "replay", *_options(files), "--json"])
            found["replay"].append(cpu)
            found["start"].append(_cpu(["-m", "streamapp", "replay", *_options(nothing), "--json"])[0])
            core = msgspec.json.decode(_cpu(["-m", "benchmarks.core_in_memory", *map(str, files)])[1])
            found["core"].append(core["core"])
            found["decode"].append(core["decode"])
            if msgspec.json.decode(output) != core["summary"]:
                raise RuntimeError("replay and the core fed from memory came to different summaries")
    replay, start, alone = found["replay"], found["start"], found["core"]
    running = [all_of_it - starting for all_of_it, starting in zip(replay, start, strict=True)]
    with_decode = [core + decode for core, decode in zip(alone, found["decode"], strict=True)]
    return {
        "machine": machine(),
        "pairs": pairs,
        "rounds": rounds,
        "cpu_seconds": {name: _spread(values) for name, values in found.items()},
        "pairs_per_cpu_second": {name: _spread([pairs / s for s in found[name]]) for name in ("replay", "core")},
        "ratio": ratios(alone, replay),
        "ratio_without_start": ratios(alone, running),
        "ratio_to_core_and_decode": ratios(with_decode, replay),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _write(folder: Path, pairs: int) -> tuple[Path, Path]:
    """Write events as they were sent, and return the two files."""
    folder.mkdir(exist_ok=True)
    predictions, outcomes = folder / "predictions.jsonl", folder / "outcomes.jsonl"
    with predictions.open("wb") as first, outcomes.open("wb") as second:
        if pairs:
            for topic, some in events(Shape(pairs=pairs), LAST):
                lines = b"".join(message + b"\n" for _, message in some)
                (first if topic == "predictions" else second).write(lines)
    return predictions, outcomes


def _options(files: tuple[Path, Path]) -> list[str]:
    return ["--predictions", str(files[0]), "--outcomes", str(files[1])]


def _cpu(arguments: Sequence[str]) -> tuple[float, bytes]:
    """Run Python on the contestants' core; return the CPU seconds that it took, and what it printed."""
    command = ["taskset", "-c", str(cores()[0]), sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, output


def show(report: Mapping[str, Any]) -> None:
    """Print a table."""
    table = Table(
        title=f"Replay of {report['pairs']:,} pairs, {report['rounds']} rounds: median (smallest to largest)",
        caption=f"Load average {report['machine']['load_average']:.1f}.",
    )
    for heading in ("", "CPU s", "µs a pair"):
        table.add_column(heading, justify="right" if heading else "left")
    labels = {
        "replay": "streamapp replay",
        "start": "  of which start",
        "decode": "decoding and sorting, from memory",
        "core": "the core fed from memory",
    }
    for name, label in labels.items():
        of = report["cpu_seconds"][name]
        seconds = [of["median"], of["min"], of["max"]]
        each = [1e6 * value / report["pairs"] for value in seconds]
        cells = [cell(median, least, most, ",.2f") for median, least, most in (seconds, each)]
        table.add_row(label, *cells)
    table.add_section()
    for name, label in (
        ("ratio", "replay ÷ core, pairs per CPU second (wanted: >= 0.6)"),
        ("ratio_without_start", "  without its start"),
        ("ratio_to_core_and_decode", "  beside core and decoding"),
    ):
        ratio = report[name]
        table.add_row(label, cell(ratio["median"], ratio["min"], ratio["max"], ".2f"), "")
    Console().print(table)
