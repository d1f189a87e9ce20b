"""Who takes part: how each contestant is started, and how it says what it found."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from benchmarks.process import Contestant, Process, cores
from benchmarks.recording import Key, Recording, Score


@dataclass(frozen=True)
class Stage:
    """Where a run takes place."""

    broker: str
    recording: Recording
    folder: Path
    """Of this run alone."""
    name: str
    """Unlike that of any other run on this broker."""
    scored_partitions: int = 1


@dataclass(frozen=True)
class Entry:
    """One contestant."""

    start: Callable[[Stage], Contestant]
    results: Callable[[Contestant], dict[Key, Score]]
    about: str
    needs: str = "streamapp"
    """Package that it is made of."""

    @property
    def installed(self) -> bool:
        """Whether that is there: some have no build for the newest Python."""
        return find_spec(self.needs) is not None


def streamapp(
    stage: Stage, *, workers: int = 1, module: str = "agents", environ: Mapping[str, str] | None = None
) -> Contestant:
    """Start workers as they are shipped, checkpoints and transactions on.

    Args:
        stage: Where.
        workers: How many; they share the core.
        module: What is run.
        environ: Added to the environment.
    """
    settings = {
        "STREAMAPP_BROKER": stage.broker,
        "STREAMAPP_TOPIC_PREFIX": stage.recording.topics.prefix,
        "STREAMAPP_GROUP_ID": stage.name,
        "STREAMAPP_PARTITIONS": str(stage.recording.shape.partitions),
        "STREAMAPP_SCORED_PARTITIONS": str(stage.scored_partitions),
        "STREAMAPP_DATA": str(stage.folder / "data"),
        "STREAMAPP_WEB_PORT": "0",
    }
    # What is set around us is not as shipped.
    unset = {name: "" for name in os.environ if name.startswith("STREAMAPP_") and name not in settings}
    core, _ = cores()
    return Contestant(
        [
            Process(
                ["-m", module],
                {**unset, **settings, **(environ or {})},
                counter="streamapp_outcomes_total{",
                core=core,
                log=stage.folder / f"streamapp-{number}.log",
            )
            for number in range(workers)
        ]
    )


def same_job(stage: Stage) -> Contestant:
    """Start a worker that is told to do no more than the others: one baseline, one detector."""
    path = stage.folder / "models.toml"
    path.write_text('[defaults]\nbaselines = ["persistence"]\ndetectors = ["adwin"]\n')
    return streamapp(stage, environ={"STREAMAPP_MODELS": str(path)})


def streamapp_results(contestant: Contestant) -> dict[Key, Score]:
    """Return what the workers' summaries say."""
    found: dict[Key, Score] = {}
    for process in contestant.processes:
        summary = msgspec.json.decode(process.get("/api/summary") or b'{"models":{}}')
        for model, part in summary["models"].items():
            for group, figures in part["groups"].items():
                if n := figures["outcomes"]:
                    metrics, area = figures["metrics"], figures["metrics"]["roc_auc"]
                    missed = figures["baselines"]["persistence"]["error"]
                    found[model, group] = Score(
                        n, metrics["accuracy"], metrics["brier"], 0.5 if area is None else area, missed
                    )
    return found


def peer(name: str) -> Callable[[Stage], Contestant]:
    """Return how a contestant of :mod:`benchmarks.contestants` is started."""

    def start(stage: Stage) -> Contestant:
        topics, shape = stage.recording.topics, stage.recording.shape
        module = f"benchmarks.contestants.{name}"
        arguments = [stage.broker, topics.prefix, str(shape.partitions), stage.name, str(stage.folder)]
        return _peer(stage, name, ["-m", module, *arguments])

    return start


def bytewax(stage: Stage) -> Contestant:
    """Start a dataflow as Bytewax has it."""
    flow = f"benchmarks.contestants.bytewax:flow({stage.broker!r}, {stage.recording.topics.prefix!r})"
    return _peer(stage, "bytewax", ["-m", "bytewax.run", flow])


def _peer(stage: Stage, name: str, arguments: list[str]) -> Contestant:
    log = stage.folder / f"{name}.log"
    return Contestant([Process(arguments, {}, counter="bench_pairs_total{", core=cores()[0], log=log)])


def peer_results(contestant: Contestant) -> dict[Key, Score]:
    """Return what ``/metrics`` of :mod:`benchmarks.contestants.sums` says."""
    values: dict[Key, dict[str, float]] = {}
    for process in contestant.processes:
        for line in (process.get("/metrics") or b"").decode().splitlines():
            found = re.fullmatch(r"bench_(\w+)\{(.*)\} (\S+)", line)
            if found:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2]))
                values.setdefault((labels["model"], labels["group"]), {})[found[1]] = float(found[3])
    return {
        key: Score(int(n), of["hits_total"] / n, of["brier_total"] / n, of["auc"], of["persistence_misses_total"] / n)
        for key, of in values.items()
        if (n := of.get("pairs_total"))
    }


ENTRIES = {
    "streamapp": Entry(streamapp, streamapp_results, "as shipped: transactions, checkpoints"),
    "same_job": Entry(same_job, streamapp_results, "streamapp with one baseline and one detector, as the others have"),
    "bare": Entry(peer("bare"), peer_results, "aiokafka, msgspec, a dict, numpy: nothing durable"),
    "faust": Entry(peer("faust"), peer_results, "agents on single events, Faust tables for what waits"),
    "quix": Entry(peer("quix"), peer_results, "Quix Streams, state by prediction_id", "quixstreams"),
    "bytewax": Entry(bytewax, peer_results, "Bytewax, keyed state, in memory", "bytewax"),
}
