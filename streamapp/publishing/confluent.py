"""Events on their way with confluent-kafka, that is librdkafka: for services with tens of thousands a second.

Imported only where the extra ``confluent-kafka`` is wanted or installed.
"""

import ctypes
import logging
from collections import deque
from threading import Event
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from streamapp.errors import ConfigError
from streamapp.publishing.carrier import Receipts, Waiting

logger = logging.getLogger("streamapp.client")

MOST_BYTES = 1 << 20
"""Of a request, as kafka-python has it: the longest event and what goes around it."""
_SERVED = 500
"""Events sent between two looks for receipts."""
_LONGEST = 3_600_000
"""Milliseconds: more than an hour the library does not let a topic be unknown."""

_OPTIONS = {
    "client_id": "client.id",
    "security_protocol": "security.protocol",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_check_hostname": "ssl.endpoint.identification.algorithm",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "sasl_kerberos_service_name": "sasl.kerberos.service.name",
    "acks": "acks",
    "enable_idempotence": "enable.idempotence",
    "batch_size": "batch.size",
    "request_timeout_ms": "request.timeout.ms",
    "retry_backoff_ms": "retry.backoff.ms",
    "metadata_max_age_ms": "metadata.max.age.ms",
    "connections_max_idle_ms": "connections.max.idle.ms",
    "reconnect_backoff_ms": "reconnect.backoff.ms",
    "reconnect_backoff_max_ms": "reconnect.backoff.max.ms",
}
"""Options in kafka-python's words, and librdkafka's."""


class Confluent:
    """Carries with a :class:`confluent_kafka.Producer`, which is made when there is something to send.

    Args:
        receipts: Who hears what became of the events.
        options: How to reach Kafka, in kafka-python's words.
        broker: ``host:port``, several with commas between.
        queue_size: Most events that may be on their way.
        linger: Seconds that events may wait for others.
        delivery_timeout: Seconds after which one that no broker took has failed.
        compression: Codec.

    Raises:
        ConfigError: The library has no counterpart for an option, or refuses its value.
    """

    name = "confluent-kafka"

    def __init__(
        self,
        receipts: Receipts,
        options: dict[str, Any],
        *,
        broker: str,
        queue_size: int,
        linger: float,
        delivery_timeout: float,
        compression: str | None,
    ) -> None:
        self._receipts = receipts
        milliseconds = int(delivery_timeout * 1000)
        self._options: dict[str, Any] = {
            "bootstrap.servers": broker,
            "client.id": "streamapp-publisher",
            "acks": "all",
            "enable.idempotence": True,
            # As every other client has it; the library's own choice would part predictions from their outcomes.
            "partitioner": "murmur2_random",
            "linger.ms": linger * 1000,
            "compression.type": compression or "none",
            "delivery.timeout.ms": milliseconds,
            "message.max.bytes": MOST_BYTES,
            "queue.buffering.max.messages": queue_size,
            "queue.buffering.max.kbytes": 2**31 - 1,  # the publisher counts events, not bytes
            # Until then events wait for a topic that is not there, rather than fail.
            "topic.metadata.propagation.max.ms": min(milliseconds, _LONGEST),
            # A mistyped prefix shall not make topics.
            "allow.auto.create.topics": False,
            **_translated(options),
        }
        self._producer: Producer | None = None
        self._arrived = 0
        """Receipts not handed on yet."""
        self._fatal: KafkaException | None = None
        """Why the producer has to be replaced."""
        try:
            Producer(self._options, logger=_silent)
        except (KafkaException, ValueError, TypeError) as error:
            raise ConfigError(f"EventPublisher: confluent-kafka refuses the arguments: {_text(error)}") from None

    def carry(self, queue: deque[Waiting], ending: Event) -> None:
        """See :class:`streamapp.publishing.carrier.Carrier`."""
        if self._producer is None:
            if not queue:
                return
            self._producer = Producer(self._options, logger=logger)
            self._receipts.connected()
        produce, told, sent = self._producer.produce, self._told, 0
        while queue and not ending.is_set():
            topic, key, value, _ = queue[0]
            try:
                produce(topic, value, key, on_delivery=told)
            except BufferError:
                break  # what is on its way must arrive first
            except KafkaException as error:
                if error.args[0].fatal():
                    self._fatal = error
                    self.close()
                    return
                queue.popleft()
                self._receipts.failed(value, error)
                continue
            queue.popleft()
            sent += 1
            if sent % _SERVED == 0:
                self._serve()
        self._serve()

    def close(self) -> None:
        """See :class:`streamapp.publishing.carrier.Carrier`."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1.0)
            self._serve()
            self._producer = self._fatal = None

    def abandon(self) -> None:
        """See :class:`streamapp.publishing.carrier.Carrier`."""
        if self._producer is not None:
            # Never destroyed: that would end TLS on the parent's connections, and wait for a lock if one of the
            # parent's threads had it at that moment.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
            self._producer = None
        self._arrived = 0

    def _serve(self) -> None:
        assert self._producer is not None
        self._producer.poll(0)
        arrived, self._arrived = self._arrived, 0
        if arrived:
            self._receipts.delivered(arrived)

    def _told(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self._arrived += 1
            return
        reason: Exception = KafkaException(error)
        if error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            reason = self._fatal or TimeoutError("closed before a broker took it")
        self._receipts.failed(message.value(), reason)


def _translated(options: dict[str, Any]) -> dict[str, Any]:
    """Return options in librdkafka's words.

    Raises:
        ConfigError: There is no word for one.
    """
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ConfigError(f"EventPublisher: confluent-kafka has no counterpart of the argument {unknown[0]!r}")
    given = {_OPTIONS[name]: value for name, value in options.items() if value is not None}
    identification = "ssl.endpoint.identification.algorithm"
    if identification in given:
        given[identification] = "https" if given[identification] else "none"
    return given


def _text(error: Exception) -> str:
    found = error.args[0] if error.args else error
    return found.str() if isinstance(found, KafkaError) else str(found)


_silent = logging.Logger("silent", logging.CRITICAL + 1)
"""For a producer that is made to see whether it can be: its complaint is raised instead."""
