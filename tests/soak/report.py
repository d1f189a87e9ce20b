"""The report of a soak: as JSON, and as a picture."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import pictures
from benchmarks.pictures import Panel
from tests.soak.judge import Finding, unresolved
from tests.soak.run import Soak

MIB = 2**20
KEPT = 1000
"""Samples, at least, of those that a long run is reported with: findings are on all of them."""


def write(folder: Path, soak: Soak, findings: list[Finding]) -> tuple[Path, Path]:
    """Write ``soak.json`` and ``soak.svg``, and return where they are."""
    soak = replace(soak, samples=soak.samples[:: max(1, len(soak.samples) // KEPT)])
    folder.mkdir(parents=True, exist_ok=True)
    figures, picture = folder / "soak.json", folder / "soak.svg"
    report = {
        **asdict(soak),
        "holds": held(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    samples = report.pop("samples")
    text = json.dumps(report, indent=1)
    # One line for each, so that two reports can be compared.
    rows = ",\n".join(json.dumps(sample, separators=(",", ":")) for sample in samples)
    part = figures.with_suffix(".part")
    part.write_text(f'{text[:-2]},\n "samples": [\n{rows}\n]}}\n')
    part.replace(figures)
    if soak.samples:
        draw(picture, soak)
    return figures, picture


def held(findings: list[Finding]) -> bool:
    """Return whether everything was seen to hold."""
    return all(finding.holds for finding in findings)


def draw(path: Path, soak: Soak) -> None:
    """Draw how everything moved, in panels above each other."""
    at = [sample["at"] / 60 for sample in soak.samples]
    panels = [
        Panel("memory, MiB", _processes(soak, "rss", 1 / MIB)),
        Panel("predictions without\nverdict, s of load", {"": (at, [unresolved(s) / s["rate"] for s in soak.samples])}),
        Panel("load, predictions\na second", {"": (at, [sample["rate"] for sample in soak.samples])}),
        Panel("live in checkpoints, MiB", {role: (at, _live(soak, role)) for role in soak.samples[0]["live"]}),
        Panel("file descriptors", _processes(soak, "fds")),
        Panel("threads", _processes(soak, "threads")),
        Panel(
            "so far",
            {
                name: (at, [float(sample["counted"][name]) for sample in soak.samples])
                for name in ("signals", "retrain", "model-updates")
            },
        ),
    ]
    share = f" = {soak.rate / soak.capacity:.0%} of the capacity" if soak.capacity else ""
    pictures.panels(
        path,
        panels,
        title=f"{soak.rate:,.0f} predictions and outcomes a second{share}, {soak.size.models} models,"
        f" {soak.size.workers} workers",
        across="minutes",
        marks={f"{kind} restart": _when(soak, kind) for kind in ("kill -9", "in order")},
        grey=soak.warm_up / 60,
    )


def _when(soak: Soak, kind: str) -> list[float]:
    return [event["at"] / 60 for event in soak.events if event["kind"] == kind]


def _live(soak: Soak, role: str) -> list[float]:
    return [sample["live"][role][1] / MIB for sample in soak.samples]


def _processes(soak: Soak, name: str, scale: float = 1.0) -> dict[str, Any]:
    """Return a series for each worker, broken where one process ends and the next begins."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    last: dict[int, int] = {}
    for sample in soak.samples:
        for worker in sample["workers"]:
            number = worker["worker"]
            at, values = found.setdefault(f"worker {number}", ([], []))
            if last.get(number, worker["pid"]) != worker["pid"]:
                at.append(sample["at"] / 60)
                values.append(float("nan"))
            last[number] = worker["pid"]
            at.append(sample["at"] / 60)
            values.append(worker[name] * scale)
    return found
