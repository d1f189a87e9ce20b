"""Figures of many runs: medians with the smallest and the largest beside them, and what they were measured on."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Run
from benchmarks.process import ALLOWED, cores

WIDTH = 150


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Return medians of the runs, and under ``spread`` the smallest and the largest."""
    measured = {
        "pairs": [run.pairs for run in runs],
        "seconds": [run.seconds for run in runs],
        "cpu_seconds": [run.cpu_seconds for run in runs],
        "pairs_per_second": [run.per_second for run in runs],
        "pairs_per_cpu_second": [run.per_cpu_second for run in runs],
        "cpu_microseconds_per_pair": [1e6 / run.per_cpu_second for run in runs],
        "peak_memory_bytes": [float(run.memory) for run in runs],
    }
    return {
        "rounds": len(runs),
        "warm": all(run.warm for run in runs),
        **{name: statistics.median(values) for name, values in measured.items()},
        "spread": {name: [min(values), max(values)] for name, values in measured.items()},
    }


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Return the median of the ratios round by round, the smallest and the largest."""
    values = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


def machine() -> dict[str, Any]:
    """Return what was measured on."""
    contestant, others = cores()
    return {
        "processor": _processor(),
        "cores": len(ALLOWED),
        "contestant_core": contestant,
        "broker_cores": others,
        "shared": others == [contestant],
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cell(median: float, least: float, most: float, shape: str = ",.0f") -> str:
    """Return a median with its spread, for a table."""
    return f"{median:{shape}} ({least:{shape}} to {most:{shape}})"


def print_wide(table: Table) -> None:
    """Print a table: a file or pipe has room for all of it."""
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
