"""A file of results that grows with every run, whoever makes it."""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.jobs import Result
from tests.faults.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
MACHINE = {"cores": os.cpu_count(), "python": platform.python_version()}


class Report:
    """Results of runs as a JSON file: a list with one object for each scenario, and in it every run.

    Args:
        path: Of the file. What it holds already is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs so far, by scenario, oldest first."""
        if not self._path.exists():
            return []
        return [run for each in json.loads(self._path.read_text()) for run in each["runs"]]

    def add(self, result: Result) -> None:
        """Add a run; others may do so at the same time."""
        name = hashlib.sha256(str(self._path.resolve()).encode()).hexdigest()[:16]
        with Path(tempfile.gettempdir(), f"streamapp-faults-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            runs = [*self.runs(), {**result.brief(), "commit": _commit(), **MACHINE}]
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(summary(runs), indent=1) + "\n")
            os.replace(part, self._path)


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one object for each scenario that was run, in the order of the scenarios."""
    found = []
    for name, scenario in SCENARIOS.items():
        ours = [run for run in runs if run["scenario"] == name]
        if not ours:
            continue
        compared: Counter[str] = Counter()
        for run in ours:
            compared.update(run["compared"])
        found.append(
            {
                "scenario": name,
                "kind": scenario.kind,
                "fault": scenario.fault,
                "times": len(ours),
                "held": sum(run["held"] for run in ours),
                "seconds": round(sum(run["seconds"] for run in ours), 1),
                "seeds": [run["seed"] for run in ours],
                "failed": [run["seed"] for run in ours if not run["held"]],
                "compared": dict(compared),
                "runs": ours,
            }
        )
    return found


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
