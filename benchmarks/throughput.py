"""Pairs per second, from Kafka to updated metrics, beside what a bare loop reaches on the same broker and input."""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import Contestant, Sample
from benchmarks.recording import record
from streamapp.stream.topics import Topics, create, plan
from tests.kafka import Kafka

PARTITIONS = 4
WARM_UP = 0.1
"""Share of the pairs that is done before measuring begins."""
POLL = 0.05
PATIENCE = 600.0


@dataclass(frozen=True)
class Run:
    """One contestant's run, after its warm-up."""

    pairs: float
    seconds: float
    cpu_seconds: float
    memory: int


def streamapp(broker: str, prefix: str, folder: Path, number: int) -> Contestant:
    """Start a worker as it is shipped, checkpoints and transactions on."""
    environ = {
        "STREAMAPP_BROKER": broker,
        "STREAMAPP_TOPIC_PREFIX": prefix,
        "STREAMAPP_GROUP_ID": f"bench-{number}",
        "STREAMAPP_PARTITIONS": str(PARTITIONS),
        "STREAMAPP_SCORED_PARTITIONS": "1",
        "STREAMAPP_DATA": str(folder / f"data-{number}"),
        "STREAMAPP_WEB_PORT": "0",
    }
    return Contestant(
        "agents",
        [],
        environ,
        counter="streamapp_outcomes_total{",
        announced=r"metrics at (http://\S+)",
        core=0,
        log=folder / f"streamapp-{number}.log",
    )


def bare(broker: str, prefix: str, folder: Path, number: int) -> Contestant:
    """Start the bare loop."""
    return Contestant(
        "benchmarks.bare",
        [broker, prefix, str(PARTITIONS)],
        {},
        counter="bare_pairs_total",
        announced=r"metrics at (http://\S+)",
        core=0,
        log=folder / f"bare-{number}.log",
    )


CONTESTANTS = {"streamapp": streamapp, "bare": bare}


def run(*, pairs: int, rounds: int) -> dict[str, Any]:
    """Run every contestant *rounds* times, one after the other, on one broker; return figures and ratios."""
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS}
    os.sched_setaffinity(0, {1})  # we and, as our child, the broker: the other core is the contestant's
    with tempfile.TemporaryDirectory(prefix="streamapp-bench-") as temporary:
        folder = Path(temporary)
        kafka = Kafka(memory="1g", fast_start=False)
        kafka.start()
        try:
            for number in range(rounds):
                # Outputs of a run belong to its topics, so that each round starts with nothing but the input.
                topics = Topics(f"bench{number}.")
                create(kafka.bootstrap, plan(topics, partitions=PARTITIONS, scored_partitions=1), replication=1)
                record(kafka.bootstrap, topics, pairs, PARTITIONS)
                for name, start in CONTESTANTS.items():
                    runs[name].append(_measure(start(kafka.bootstrap, topics.prefix, folder, number), pairs))
        finally:
            kafka.stop()
    return _report(runs)


def _measure(contestant: Contestant, pairs: int) -> Run:
    """Return what happened between the first sample beyond the warm-up and the last pair.

    Counts change at the contestant's own pace: samples count from the moment at which a change is first seen.
    """
    try:
        began = time.monotonic()
        first: Sample | None = None
        seen = 0.0
        while True:
            sample = contestant.sample()
            if sample.pairs > seen:
                seen = sample.pairs
                if first is None and seen >= WARM_UP * pairs:
                    first = sample
                if seen >= pairs:
                    break
            if time.monotonic() - began > PATIENCE:
                raise RuntimeError(f"only {seen:.0f} of {pairs} pairs in {PATIENCE:g} s")
            time.sleep(POLL)
        assert first is not None
        return Run(
            pairs=sample.pairs - first.pairs,
            seconds=sample.at - first.at,
            cpu_seconds=sample.cpu - first.cpu,
            memory=contestant.memory(),
        )
    finally:
        contestant.close()


def _report(runs: dict[str, list[Run]]) -> dict[str, Any]:
    report: dict[str, Any] = {name: _figures(done) for name, done in runs.items()}
    ours = [run.pairs / run.cpu_seconds for run in runs["streamapp"]]
    ratios = {
        name: [a / (b.pairs / b.cpu_seconds) for a, b in zip(ours, done, strict=True)]
        for name, done in runs.items()
        if name != "streamapp"
    }
    report["ratios"] = {name: statistics.median(values) for name, values in ratios.items()}
    report["ratios_spread"] = {name: [min(values), max(values)] for name, values in ratios.items()}
    return report


def _figures(done: list[Run]) -> dict[str, Any]:
    """Return medians, and beside each the smallest and the largest."""
    measured = {
        "seconds": [run.seconds for run in done],
        "cpu_seconds": [run.cpu_seconds for run in done],
        "pairs_per_second": [run.pairs / run.seconds for run in done],
        "pairs_per_cpu_second": [run.pairs / run.cpu_seconds for run in done],
        "peak_memory_bytes": [float(run.memory) for run in done],
    }
    return {
        "rounds": len(done),
        "pairs": int(statistics.median(run.pairs for run in done)),
        **{name: statistics.median(values) for name, values in measured.items()},
        "spread": {name: [min(values), max(values)] for name, values in measured.items()},
    }
