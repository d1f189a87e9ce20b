"""Where the demo plays: a worker on an embedded broker, or the core alone where there is no such broker."""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from streamapp.artifacts import ArtifactStore
from streamapp.child import Child
from streamapp.commands.status import fetch
from streamapp.config import ProcessConfig
from streamapp.core.events import ModelUpdate, Prediction
from streamapp.core.joining.intake import InputBatch
from streamapp.core.pickling import loads
from streamapp.core.settings import Settings
from streamapp.embedded import EmbeddedBroker
from streamapp.errors import ConfigError, StreamappError
from streamapp.exposition import Exposition
from streamapp.pipeline import Pipeline
from streamapp.simulation.models import Answering
from streamapp.simulation.services import Services
from streamapp.simulation.stream import Event, Simulation
from streamapp.stream import topics
from streamapp.stream.codec import decode_outcomes, decode_predictions
from streamapp.web.server import Readiness, WebServer

HOST = "127.0.0.1"
USUAL_PORT = 6066
PAGE = re.compile(r"status page at (http://[^\s,]+)")
READY_WITHIN = 60.0
"""Seconds that a worker may take to be ready."""
STEP = 0.25
"""Seconds between two steps of the core where there is no broker."""
SESSION_TIMEOUT = "3s"
"""A group join on the embedded broker takes half of it."""
PARTITIONS = 4
SCORED_PARTITIONS = 2


class Stage(Protocol):
    """Runs simulated services and what watches them."""

    url: str
    """Where the status page is."""
    notes: tuple[str, ...]
    """What a person should know about it."""

    def start(self) -> None:
        """Begin; return when predictions are being made.

        Raises:
            StreamappError: it cannot begin; the message says why.
        """

    def summary(self) -> dict[str, Any]:
        """Return what is known now.

        Raises:
            StreamappError: what runs has failed.
        """

    def stop(self) -> None:
        """End everything that was begun; nothing is left running."""


class KafkaStage:
    """The real thing, small: broker and worker are child processes, services a thread of this one.

    Args:
        simulation: What the services say.
        models: The models.toml of the worker.
        folder: Where logs and learned models go.
    """

    notes: tuple[str, ...] = (EmbeddedBroker.limits,)

    def __init__(self, simulation: Simulation, models: Path, folder: Path) -> None:
        self._simulation = simulation
        self._log = folder / "worker.log"
        self._broker = EmbeddedBroker()
        self._environ = {
            "STREAMAPP_BROKER": self._broker.bootstrap,
            "STREAMAPP_PARTITIONS": str(PARTITIONS),
            "STREAMAPP_SCORED_PARTITIONS": str(SCORED_PARTITIONS),
            "STREAMAPP_MODELS": str(models),
            "STREAMAPP_DATA": str(folder),
            "STREAMAPP_SESSION_TIMEOUT": SESSION_TIMEOUT,
            "STREAMAPP_TRANSACTIONS": "false",
            "STREAMAPP_WEB_HOST": HOST,
            "STREAMAPP_WEB_PORT": str(web_port()),
        }
        self._config = ProcessConfig.from_environ(self._environ)
        self._worker: Child | None = None
        self._services: Services | None = None
        self.url = ""

    def start(self) -> None:
        """Start broker, topics, worker and services."""
        self._broker.start()
        config = self._config
        plans = topics.plan(
            topics.Topics(config.topic_prefix), partitions=PARTITIONS, scored_partitions=SCORED_PARTITIONS
        )
        topics.create(config.broker, plans)
        ours = {name: value for name, value in os.environ.items() if not name.startswith("STREAMAPP_")}
        self._worker = Child(
            [sys.executable, "-m", "streamapp", "worker"],
            log=self._log,
            env={**ours, **self._environ},
            grace=10.0,
        )
        self._wait_until_ready()
        store = ArtifactStore(config.artifacts_url)
        self._services = Services(config.broker, self._simulation, prefix=config.topic_prefix, artifacts=store)
        self._services.start()

    def _wait_until_ready(self) -> None:
        end, reason = time.monotonic() + READY_WITHIN, "it does not answer"
        while time.monotonic() < end:
            self._must_run()
            # What the worker itself says: something else may answer on the port that we hoped for.
            if told := PAGE.search(self._log.read_text(errors="replace")):
                self.url = told[1]
                with contextlib.suppress(ConfigError):
                    found = fetch(self.url, "/readyz", timeout=2.0)
                    if found["ready"]:
                        return
                    reason = found["reason"]
            time.sleep(0.1)
        raise self._failed(f"the worker was not ready within {READY_WITHIN:g} s ({reason})")

    def summary(self) -> dict[str, Any]:
        """Return what the worker says."""
        self._must_run()
        return fetch(self.url, "/api/summary")

    def stop(self) -> None:
        """Stop services, worker and broker, in this order."""
        if self._services is not None:
            self._services.stop(5.0)
            self._services = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        self._broker.stop()

    def _must_run(self) -> None:
        if self._worker is None or (code := self._worker.poll()) is None:
            return
        raise self._failed(f"the worker ended with code {code}")

    def _failed(self, what: str) -> ConfigError:
        assert self._worker is not None
        return ConfigError(f"{what}; the end of its log:\n{self._worker.tail()}")


class CoreStage:
    """Joiner, monitor and learner in this process, in real time, with no broker between.

    Args:
        simulation: What the services say.
        settings: How models are watched.
        reason: Why there is no broker.
    """

    def __init__(self, simulation: Simulation, settings: Settings, reason: str) -> None:
        self.notes: tuple[str, ...] = (
            f"no embedded broker here ({reason}): the same core runs in this process, without Kafka",
        )
        self._simulation = simulation
        self._pipeline = Pipeline(settings)
        self._exposition = Exposition(settings)
        self._summary: Mapping[str, Any] = {"models": {}, "events": {}}
        self._web = WebServer(
            HOST,
            web_port(),
            registry=self._exposition.registry,
            summary=lambda: self._summary,
            readiness=lambda: Readiness(ready=self._failure is None, reason=str(self._failure or "")),
        )
        self._failure: BaseException | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamapp-demo", daemon=True)
        self._given = {"predictions": 0, "outcomes": 0}
        self.url = self._web.url

    def start(self) -> None:
        """Start page and core."""
        self._web.start()
        self._thread.start()

    def summary(self) -> dict[str, Any]:
        """Return what the core knows."""
        if self._failure is not None:
            raise StreamappError(f"the core failed: {self._failure!r}") from self._failure
        summary: dict[str, Any] = msgspec.to_builtins(self._summary)
        return summary

    def stop(self) -> None:
        """Stop core and page."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
        self._web.stop()

    def _run(self) -> None:
        try:
            self._play()
        except BaseException as error:
            self._failure = error

    def _play(self) -> None:
        began = time.time()
        events = self._simulation.events(began)
        pieces: dict[str, list[Event]] = {"predictions": [], "outcomes": []}
        step = began + STEP
        while not self._ending.is_set():
            due, event = next(events)
            while due >= step:
                if self._ending.wait(max(0.0, step - time.time())):
                    return
                self._step(pieces, step)
                step += STEP
            pieces["predictions" if isinstance(event, Prediction) else "outcomes"].append(event)

    def _step(self, pieces: dict[str, list[Event]], until: float) -> None:
        pipeline = self._pipeline
        pipeline.predictions(self._batch("predictions", pieces["predictions"]))
        pipeline.outcomes(self._batch("outcomes", pieces["outcomes"]))
        for piece in pieces.values():
            piece.clear()
        for followed in pipeline.advance(until):
            if isinstance(followed, ModelUpdate) and (model := pipeline.models.get(followed.id)) is not None:
                answerer: Any = loads(model)
                self._simulation.answering[followed.group] = Answering(followed.version, answerer)
        self._summary = msgspec.to_builtins(pipeline.summary())
        self._exposition.publish(pipeline.snapshot())

    def _batch(self, kind: str, events: list[Event]) -> InputBatch:
        first = self._given[kind]
        self._given[kind] += len(events)
        values = [msgspec.json.encode(event) for event in events]
        return InputBatch(
            offsets=range(first, first + len(events)),
            timestamps=[float(event.ts) for event in events],  # type: ignore[arg-type]  # made as floats
            keys=[event.prediction_id.encode() for event in events],
            values=values,
            events=decode_predictions(values) if kind == "predictions" else decode_outcomes(values),
        )


def web_port() -> int:
    """Return the usual port of the status page where it is free, else 0: any other."""
    with socket.socket() as each:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            each.bind((HOST, USUAL_PORT))
        except OSError:
            return 0
    return USUAL_PORT
