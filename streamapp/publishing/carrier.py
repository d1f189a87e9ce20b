"""How events that wait in a publisher get to Kafka: by kafka-python, or by confluent-kafka where that is installed."""

from collections import deque
from threading import Event
from typing import Protocol

Waiting = tuple[str, bytes, bytes, float]
"""An event in the queue: topic, key, value, and when it was queued, in seconds of the monotonic clock."""


class Receipts(Protocol):
    """What a publisher wants to hear. Called on any thread, and never raises."""

    def delivered(self, count: int) -> None:
        """Hear that every in-sync replica has so many more events."""

    def failed(self, value: bytes, error: Exception) -> None:
        """Hear that Kafka will not have this event."""

    def connected(self) -> None:
        """Hear that a client was made, and with it what it does at the end of the process."""


class Carrier(Protocol):
    """Takes events from a queue to Kafka. Used by one thread at a time, but for :meth:`abandon`."""

    name: str
    """Of the package that it uses."""

    def carry(self, queue: deque[Waiting], ending: Event) -> None:
        """Take events from the left of a queue until it is empty, and hand out the receipts that came meanwhile.

        Args:
            queue: Events that are not sent when this raises stay in it.
            ending: Return early once it is set.

        Raises:
            Exception: Kafka takes nothing now; the message says why.
        """

    def close(self) -> None:
        """Let go of Kafka; events that are on their way have failed, unless they arrive within a second."""

    def abandon(self) -> None:
        """Never touch again what a parent process has made, and begin anew: called in a forked child."""
