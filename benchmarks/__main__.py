"""``python -m benchmarks throughput [--json] [--pairs N] [--rounds N]``."""

import argparse
import json

from rich.console import Console
from rich.table import Table

from benchmarks import throughput


def main() -> None:
    """Run one benchmark and print what it found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("benchmark", choices=["throughput"])
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="prediction-outcome pairs in the recording")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant, interleaved")
    arguments = parser.parse_args()
    report = throughput.run(pairs=arguments.pairs, rounds=arguments.rounds)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    table = Table(title=f"{arguments.pairs:,} pairs, {arguments.rounds} rounds: median (smallest to largest)")
    for heading in ("contestant", "pairs/s", "pairs/CPU s", "peak memory", "streamapp ÷ it, per CPU s"):
        table.add_column(heading, justify="left" if heading == "contestant" else "right")
    for name in throughput.CONTESTANTS:
        figures = report[name]
        spread = figures["spread"]
        ratio = report["ratios"].get(name)
        table.add_row(
            name,
            _cell(figures["pairs_per_second"], spread["pairs_per_second"], ",.0f"),
            _cell(figures["pairs_per_cpu_second"], spread["pairs_per_cpu_second"], ",.0f"),
            f"{figures['peak_memory_bytes'] / 2**20:,.0f} MiB",
            "" if ratio is None else _cell(ratio, report["ratios_spread"][name], ".2f"),
        )
    Console().print(table)


def _cell(median: float, spread: list[float], shape: str) -> str:
    return f"{median:{shape}} ({spread[0]:{shape}} to {spread[1]:{shape}})"


if __name__ == "__main__":
    main()
