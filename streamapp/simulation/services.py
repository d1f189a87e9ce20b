"""The simulated services at work: threads that publish in real time and take the versions that the learner offers."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from streamapp.address import unreachable
from streamapp.artifacts import ArtifactStore
from streamapp.client import EventPublisher
from streamapp.core.events import ModelUpdate
from streamapp.core.learning.learned import LearnedModel
from streamapp.errors import StreamappError
from streamapp.simulation.models import Answering
from streamapp.simulation.stream import Simulation
from streamapp.stream.topics import Topics

logger = logging.getLogger(__name__)

_TICK = 0.005
"""Seconds by which an event may be early."""
_PATIENCE = 0.5
"""Seconds between two looks for updates."""


class Services:
    """Publishes what a simulation says, when it is due, and gives its groups the models that the learner made.

    Args:
        broker: ``host:port``, several with commas between.
        simulation: What to publish; its groups are given new versions while it runs.
        prefix: Put in front of the topics' names.
        artifacts: Where learned models lie; None: no new version is ever taken.
        security: How to reach a secured broker, in kafka-python's words.
    """

    def __init__(
        self,
        broker: str,
        simulation: Simulation,
        *,
        prefix: str = "streamapp.",
        artifacts: ArtifactStore | None = None,
        **security: Any,
    ) -> None:
        self.simulation = simulation
        self.publisher = EventPublisher(broker, prefix=prefix, **security)
        self.updates: list[ModelUpdate] = []
        """Versions that were taken, oldest first."""
        self._broker = broker
        self._topic = Topics(prefix).model_updates
        self._artifacts = artifacts
        self._security = security
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def versions(self) -> dict[str, str]:
        """What answers in each group now."""
        return {group: answering.version for group, answering in self.simulation.answering.items()}

    def start(self, count: int | None = None) -> None:
        """Begin to publish, in the background.

        Args:
            count: Predictions to make; None: until :meth:`stop`.
        """
        self._start("simulated-services", lambda: self.run(count))
        if self._artifacts is not None:
            self._start("simulated-updates", self._follow)

    def run(self, count: int | None = None) -> None:
        """Publish, and return when all is published or :meth:`stop` was called from another thread."""
        for due, event in self.simulation.events(time.time(), count):
            early = due - time.time()
            if early > _TICK and self._ending.wait(early):
                return
            if self._ending.is_set():
                return
            self.publisher.publish(event)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until what :meth:`start` was asked for is published, and tell whether it is."""
        if not self._threads:
            return True
        self._threads[0].join(timeout)
        return not self._threads[0].is_alive()

    def stop(self, timeout: float = 10.0) -> bool:
        """End everything within some *timeout* seconds, and tell whether all that was published has arrived."""
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout)
        return self.publisher.close(timeout)

    def take(self, update: ModelUpdate) -> None:
        """Give a group the model that an update offers; any other update changes nothing.

        Raises:
            StreamappError: The artifact is not what the update says, or cannot be read.
        """
        answering = self.simulation.answering
        ours = update.model == self.simulation.dataset.name and update.group in answering
        if not ours or update.status != "accepted" or update.artifact is None or self._artifacts is None:
            return
        model = LearnedModel.load(self._artifacts.get(update.artifact))
        answering[update.group] = Answering(update.version, model)
        self.updates.append(update)

    def _follow(self) -> None:
        """Take updates as they come, from now on."""
        while not self._ending.is_set():
            try:
                self._read_updates()
            except (KafkaError, OSError) as error:
                logger.warning("%s cannot be read now: %s", self._topic, error)
                self._ending.wait(_PATIENCE)

    def _read_updates(self) -> None:
        if (reason := unreachable(self._broker, 3.0)) is not None:
            raise reason
        consumer = KafkaConsumer(
            bootstrap_servers=self._broker.split(","),
            client_id="streamapp-simulation",
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="latest",
            allow_auto_create_topics=False,
            **self._security,
        )
        try:
            while not (partitions := consumer.partitions_for_topic(self._topic)):
                if self._ending.wait(_PATIENCE):
                    return
            assigned = [TopicPartition(self._topic, partition) for partition in sorted(partitions)]
            consumer.assign(assigned)
            consumer.seek_to_end(*assigned)
            while not self._ending.is_set():
                for records in consumer.poll(timeout_ms=int(_PATIENCE * 1000)).values():
                    for record in records:
                        self._try_to_take(record.value)
        finally:
            consumer.close()

    def _try_to_take(self, value: bytes) -> None:
        try:
            self.take(msgspec.json.decode(value, type=ModelUpdate))
        except (StreamappError, msgspec.MsgspecError, OSError) as error:
            logger.warning("an offered model was not taken: %s", error)

    def _start(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
