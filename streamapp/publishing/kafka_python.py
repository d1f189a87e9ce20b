"""Events on their way with kafka-python: pure Python, installed with streamapp."""

from collections import deque
from threading import Event
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from streamapp.address import unreachable
from streamapp.errors import ConfigError
from streamapp.publishing.carrier import Receipts, Waiting

BLOCK_MS = 3000
"""Most milliseconds that the library may wait for a broker before it raises."""
BATCH_BYTES = 1 << 18
"""Bytes of a batch, which is one partition's. With the library's 16 kB each event wakes its network thread."""

_ENDING = 2.0
"""Most seconds that the library's thread may take to end when it is told to."""


class KafkaPython:
    """Carries with a :class:`kafka.KafkaProducer`, which is made when there is something to send.

    Args:
        receipts: Who hears what became of the events.
        options: How to reach Kafka: arguments of ``KafkaProducer`` that go before ours.
        broker: ``host:port``, several with commas between.
        linger: Seconds that events may wait for others.
        delivery_timeout: Seconds after which one that no broker took has failed.
        compression: Codec, one that :func:`check` found.
    """

    name = "kafka-python"

    def __init__(
        self,
        receipts: Receipts,
        options: dict[str, Any],
        *,
        broker: str,
        linger: float,
        delivery_timeout: float,
        compression: str | None,
    ) -> None:
        self._receipts = receipts
        self._broker = broker
        self._options: dict[str, Any] = {
            "bootstrap_servers": broker.split(","),
            "client_id": "streamapp-publisher",
            "acks": "all",
            "linger_ms": int(linger * 1000),
            "batch_size": BATCH_BYTES,
            "compression_type": compression,
            "delivery_timeout_ms": int(delivery_timeout * 1000),
            "request_timeout_ms": min(30_000, max(1, int((delivery_timeout - linger) * 1000))),
            "bootstrap_timeout_ms": BLOCK_MS,
            "max_block_ms": BLOCK_MS,
            # A mistyped prefix shall not make topics.
            "allow_auto_create_topics": False,
            **options,
        }
        self._producer: Any = None
        self._cut_off: Exception | None = None
        """Why what was on its way when the producer closed has failed."""

    def carry(self, queue: deque[Waiting], ending: Event) -> None:
        """See :class:`streamapp.publishing.carrier.Carrier`."""
        if self._producer is not None and _useless(self._producer):
            self.close()
        if self._producer is None:
            if not queue:
                return
            reason = unreachable(self._broker, BLOCK_MS / 1000)
            if reason is not None:
                raise reason
            self._producer, self._cut_off = KafkaProducer(**self._options), None
            self._receipts.connected()
        while queue and not ending.is_set() and not _useless(self._producer):
            topic, key, value, _ = queue[0]
            try:
                future = self._producer.send(topic, key=key, value=value)
            except KafkaTimeoutError as error:
                raise ConfigError(f"the broker does not know the topic {topic} (streamapp topics --create)") from error
            except Exception as error:
                queue.popleft()
                self._receipts.failed(value, error)
            else:
                queue.popleft()
                future.add_callback(self._delivered)
                future.add_errback(lambda error, value=value: self._failed(value, error))

    def close(self) -> None:
        """See :class:`streamapp.publishing.carrier.Carrier`."""
        if self._producer is not None:
            try:
                self._producer.close(timeout=1.0)
            except KafkaTimeoutError:
                self._cut_off = TimeoutError("closed before a broker took it")
                _end(self._producer)
            self._producer = None

    def abandon(self) -> None:
        """See :class:`streamapp.publishing.carrier.Carrier`."""
        if self._producer is not None:
            _orphans.append(self._producer)
            self._producer = None

    def _delivered(self, _metadata: object) -> None:
        self._receipts.delivered(1)

    def _failed(self, value: bytes, error: Exception) -> None:
        self._receipts.failed(value, self._cut_off or error)


def check(options: dict[str, Any], compression: str | None) -> None:
    """Find fault with what a carrier would be made of.

    Raises:
        ConfigError: The library has no such option, or cannot compress so.
    """
    unknown = sorted(set(options) - set(KafkaProducer.DEFAULT_CONFIG))
    if unknown:
        raise ConfigError(f"EventPublisher has no argument {unknown[0]!r}")
    if compression is not None and not KafkaProducer._COMPRESSORS[compression][0]():
        raise ConfigError(f"compression={compression!r} needs a library that is not installed")


def _end(producer: Any) -> None:
    """Close a producer by force: what it still has fails. It would otherwise go on, and nobody would hear."""
    producer._sender.force_close()
    producer._sender.join(_ENDING)
    if not producer._sender.is_alive():
        producer.close(timeout=0)


def _useless(producer: Any) -> bool:
    """Tell whether an idempotent producer takes nothing any more, because a broker refused one of its batches."""
    manager = producer._transaction_manager
    return manager is not None and bool(manager.has_fatal_error())


_orphans: list[Any] = []
"""Producers of a parent process: kept, because collecting them would close connections that are not ours."""
