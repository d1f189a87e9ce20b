"""Simulated producer services, ready to run against a broker or to be written to files."""

import contextlib
import time
from pathlib import Path
from typing import Any

import msgspec

from streamapp.artifacts import ArtifactStore
from streamapp.core.events import Prediction
from streamapp.simulation.datasets import load
from streamapp.simulation.models import pretrain
from streamapp.simulation.scenarios import Kind, Scenario
from streamapp.simulation.services import Services
from streamapp.simulation.stream import Simulation


def simulation(
    dataset: str = "shuttle",
    scenario: Kind = "abrupt",
    *,
    at: float = 12.0,
    seed: int = 7,
    rate: float = 300.0,
    **options: Any,
) -> Simulation:
    """Return a simulation by names, with freshly trained models.

    Args:
        dataset: One of :data:`~streamapp.simulation.datasets.DATASETS`.
        scenario: One of :data:`~streamapp.simulation.scenarios.SCENARIOS`.
        at: Seconds of stream before the change begins.
        seed: Of every random choice.
        rate: Predictions a second.
        options: Further arguments of :class:`~streamapp.simulation.stream.Simulation`.

    Raises:
        ConfigError: There is no data set or no scenario of that name, or an argument cannot be right.
    """
    change = Scenario(kind=scenario, at=at)
    data = load(dataset)
    return Simulation(data, change, pretrain(data, seed=seed), seed=seed, rate=rate, **options)


def services(
    broker: str,
    dataset: str = "shuttle",
    scenario: Kind = "abrupt",
    *,
    prefix: str = "streamapp.",
    artifacts: str | None = None,
    security: dict[str, Any] | None = None,
    **options: Any,
) -> Services:
    """Return services that are ready to start; their ids differ from those of any other run.

    Args:
        broker: ``host:port``, several with commas between.
        dataset: One of :data:`~streamapp.simulation.datasets.DATASETS`.
        scenario: One of :data:`~streamapp.simulation.scenarios.SCENARIOS`.
        prefix: Put in front of the topics' names.
        artifacts: Where learned models lie (an fsspec URL or a folder); None: no new version is ever taken.
        security: How to reach a secured broker, in kafka-python's words.
        options: Further arguments of :func:`simulation`.

    Raises:
        ConfigError: An argument cannot be right.
    """
    options.setdefault("run", f"{time.time_ns() // 1_000_000:x}")
    simulated = simulation(dataset, scenario, clock=time.perf_counter, **options)
    store = None if artifacts is None else ArtifactStore(artifacts)
    return Services(broker, simulated, prefix=prefix, artifacts=store, **(security or {}))


def record(simulated: Simulation, predictions: Path, outcomes: Path, *, count: int, start: float = 1.7e9) -> None:
    """Write what a simulation says to two JSONL files, each in order of time.

    Args:
        simulated: What to write.
        predictions: File for the predictions; what was in it is gone.
        outcomes: File for the outcomes; likewise.
        count: Predictions to make; all their outcomes follow.
        start: Time of the stream's beginning, in seconds since the epoch.
    """
    encoder = msgspec.json.Encoder()
    with contextlib.ExitStack() as stack:
        to_predictions = stack.enter_context(predictions.open("wb", 1 << 20))
        to_outcomes = stack.enter_context(outcomes.open("wb", 1 << 20))
        for _, event in simulated.events(start, count):
            (to_predictions if isinstance(event, Prediction) else to_outcomes).write(encoder.encode(event) + b"\n")
