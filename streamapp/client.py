"""What a producer service uses to publish its predictions and their outcomes.

>>> publisher = EventPublisher("localhost:9092")  # doctest: +SKIP
>>> publisher.prediction(prediction_id="p-1", model="fraud", prediction=True, scores=0.91)  # doctest: +SKIP
>>> publisher.outcome(prediction_id="p-1", outcome=False)  # doctest: +SKIP
"""

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from streamapp.address import parse, unreachable
from streamapp.core.events import Outcome, Prediction
from streamapp.errors import ConfigError, DecodeError
from streamapp.stream.codec import decode_outcomes, decode_predictions

logger = logging.getLogger(__name__)

Event = Prediction | Outcome | Mapping[str, Any]
"""What :meth:`EventPublisher.publish` takes; a mapping with a ``model`` is a prediction, any other an outcome."""

Compression = Literal["gzip", "lz4", "snappy", "zstd"]

_LONGEST_PAUSE = 5.0
"""Seconds between two attempts to reach a broker, at most."""
_BLOCK_MS = 3000
_NUMBERS = ("prediction", "scores", "latency", "propensity", "outcome", "loss")


class EventPublisher:
    """Publishes events without ever raising into, or blocking, the code that answers requests.

    :meth:`publish` checks the event as the joiner will, encodes it and appends it to a bounded queue. A background
    thread takes it from there to Kafka and keeps trying while no broker answers. It may be called from any thread,
    and after a fork: a child process begins with an empty queue and a thread of its own.

    Each event counts once in ``rejected`` (it is not a valid event), ``dropped`` (the queue was full, or the publisher
    closed) or ``published``; and each published one later in ``delivered`` (every in-sync replica has it) or
    ``failed``. A broker that refuses an event (say, one too long for its topic) makes those fail, too, that are on
    their way at that moment.

    Args:
        broker: ``host:port``, several with commas between.
        prefix: Put in front of the topics' names.
        queue_size: Most events that wait to be delivered.
        on_error: Called with the error and the event's bytes (empty where it could not be encoded) for each event
            rejected, dropped or failed; in the caller's thread or in the background.
        linger: Seconds that events may wait for others to share a request with.
        compression: Codec of the batches; all but gzip need a library that kafka-python can find.
        delivery_timeout: Seconds after which an event that no broker took counts as failed.
        security: How to reach a secured broker, in kafka-python's words, e.g. ``security_protocol="SSL"``.

    Raises:
        ConfigError: An argument cannot be right.
    """

    _thread: threading.Thread | None
    _producer: Any

    def __init__(
        self,
        broker: str,
        *,
        prefix: str = "streamapp.",
        queue_size: int = 100_000,
        on_error: Callable[[Exception, bytes], None] | None = None,
        linger: float = 0.005,
        compression: Compression | None = None,
        delivery_timeout: float = 120.0,
        **security: Any,
    ) -> None:
        parse(broker)
        unknown = sorted(set(security) - set(KafkaProducer.DEFAULT_CONFIG))
        if unknown:
            raise ConfigError(f"EventPublisher has no argument {unknown[0]!r}")
        if queue_size < 1 or linger < 0 or delivery_timeout <= linger:
            raise ConfigError("EventPublisher needs queue_size >= 1 and 0 <= linger < delivery_timeout")
        if compression is not None and not KafkaProducer._COMPRESSORS[compression][0]():
            raise ConfigError(f"compression={compression!r} needs a library that is not installed")
        self.published = 0
        """Events taken into the queue."""
        self.delivered = 0
        """Published events that Kafka has."""
        self.failed = 0
        """Published events that Kafka did not take in time."""
        self.dropped = 0
        """Events not taken: the queue was full, or the publisher closed."""
        self.rejected = 0
        """Events not taken: they are not valid."""
        self._broker = broker
        self._predictions = f"{prefix}predictions"
        self._outcomes = f"{prefix}outcomes"
        self._queue_size = queue_size
        self._on_error = on_error
        self._linger = linger
        self._delivery_timeout = delivery_timeout
        self._options: dict[str, Any] = {
            "bootstrap_servers": broker.split(","),
            "client_id": "streamapp-publisher",
            "acks": "all",
            "linger_ms": int(linger * 1000),
            "compression_type": compression,
            "delivery_timeout_ms": int(delivery_timeout * 1000),
            "request_timeout_ms": min(30_000, max(1, int((delivery_timeout - linger) * 1000))),
            "bootstrap_timeout_ms": _BLOCK_MS,
            "max_block_ms": _BLOCK_MS,
            # A mistyped prefix shall not make topics.
            "allow_auto_create_topics": False,
            **security,
        }
        self._closed = False
        self._begin()
        _publishers.add(self)

    def publish(self, event: Event) -> bool:
        """Queue an event, and tell whether it was taken. Never raises, never waits."""
        try:
            topic, key, value = self._encode(event)
        except Exception as error:  # whatever an event holds must not reach the caller's own work
            with self._lock:
                self.rejected += 1
            self._report(error, _bytes(event))
            return False
        with self._lock:
            taken = not self._closed and self.published - self.delivered - self.failed < self._queue_size
            if taken:
                self.published += 1
                self._queue.append((topic, key, value, time.monotonic()))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="streamapp-publisher", daemon=True)
                    self._thread.start()
                    atexit.register(self._at_exit)
            else:
                self.dropped += 1
        if not taken:
            why = "the publisher is closed" if self._closed else f"{self._queue_size} events wait already"
            self._report(OverflowError(why), value)
        elif not self._wake.is_set():
            self._wake.set()
        return taken

    def prediction(self, *, prediction_id: str, model: str, ts: float | None = None, **fields: Any) -> bool:
        """Publish a prediction: :meth:`publish` with the fields of an event as arguments.

        Args:
            prediction_id: What pairs it with its outcome.
            model: The use case that is monitored.
            ts: When it was made, in seconds since the epoch; None: now.
            fields: The other fields of a prediction.
        """
        ts = time.time() if ts is None else ts
        return self.publish({"prediction_id": prediction_id, "model": model, "ts": ts, **fields})

    def outcome(self, *, prediction_id: str, ts: float | None = None, **fields: Any) -> bool:
        """Publish an outcome: :meth:`publish` with the fields of an event as arguments.

        Args:
            prediction_id: The prediction that it belongs to.
            ts: When it became known, in seconds since the epoch; None: now.
            fields: The other fields of an outcome.
        """
        return self.publish({"prediction_id": prediction_id, "ts": time.time() if ts is None else ts, **fields})

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until as many events as are published now are delivered or failed, and tell whether they are.

        Args:
            timeout: Seconds to wait at most; None: as long as it takes.
        """
        end = None if timeout is None else time.monotonic() + timeout
        published = self.published
        while self.delivered + self.failed < published:
            if end is not None and time.monotonic() >= end:
                return False
            time.sleep(0.002)
        return True

    def close(self, timeout: float = 10.0) -> bool:
        """Take no more events, deliver those that wait, and tell whether all of them were.

        Those that no broker took within *timeout* seconds count as failed.
        """
        end = time.monotonic() + timeout
        with self._lock:
            self._closed = True
        atexit.unregister(self._at_exit)
        self.flush(timeout)
        self._ending.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(max(0.0, end - time.monotonic()) + 1.0)
        self._give_up()
        return self.failed == 0

    def __enter__(self) -> Self:
        """Return the publisher itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[tuple[str, bytes, bytes, float]] = deque()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = None
        self._producer = None

    def _begin_again(self) -> None:
        """Begin anew in a forked child, which has none of the parent's threads and must not use its sockets."""
        if self._producer is not None:
            _orphans.append(self._producer)
        self.published = self.delivered = self.failed = self.dropped = self.rejected = 0
        self._begin()

    def _encode(self, event: Event) -> tuple[str, bytes, bytes]:
        given: Mapping[str, Any] | None = None if isinstance(event, Prediction | Outcome) else event
        value = _encoder.encode(event if given is None or isinstance(given, dict) else dict(given))
        is_prediction = isinstance(event, Prediction) if given is None else "model" in given
        decoded = (decode_predictions if is_prediction else decode_outcomes)((value,))[0]
        if isinstance(decoded, DecodeError):
            raise decoded
        for name in _NUMBERS:
            # JSON has no NaN and no infinity: the encoder writes null.
            was = getattr(event, name, None) if given is None else given.get(name)
            if was is not None and getattr(decoded, name, was) is None:
                raise DecodeError(f"expected a finite number - at `$.{name}`", reason="not_finite")
        return self._predictions if is_prediction else self._outcomes, decoded.prediction_id.encode(), value

    def _run(self) -> None:
        """Take events from the queue to Kafka, until closed."""
        pause = 0.1
        while not self._ending.is_set():
            self._wake.wait()
            self._ending.wait(self._linger)
            self._wake.clear()
            try:
                self._drain()
                pause = 0.1
            except Exception as error:
                logger.warning("events wait, because Kafka at %s does not take them: %s", self._broker, error)
                self._expire(time.monotonic() - self._delivery_timeout, error)
                self._ending.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._wake.set()
        self._discard()

    def _drain(self) -> None:
        """Send all that waits. What was not sent when this raises stays in the queue."""
        if self._producer is not None and _useless(self._producer):
            self._discard()
        if self._producer is None:
            reason = unreachable(self._broker, _BLOCK_MS / 1000)
            if reason is not None:
                raise reason
            self._producer = KafkaProducer(**self._options)
            # Functions registered last run first: ours must come before the producer's own.
            atexit.unregister(self._at_exit)
            if not self._closed:
                atexit.register(self._at_exit)
        while self._queue and not self._ending.is_set():
            if _useless(self._producer):
                self._wake.set()
                return
            topic, key, value, _ = self._queue[0]
            try:
                future = self._producer.send(topic, key=key, value=value)
            except KafkaTimeoutError as error:
                raise ConfigError(f"the broker does not know the topic {topic} (streamapp topics --create)") from error
            except Exception as error:
                self._queue.popleft()
                self._fail(value, error)
            else:
                self._queue.popleft()
                future.add_callback(self._deliver)
                future.add_errback(lambda error, value=value: self._fail(value, error))

    def _discard(self) -> None:
        if self._producer is not None:
            with contextlib.suppress(KafkaTimeoutError):
                self._producer.close(timeout=1.0)
            self._producer = None

    def _deliver(self, _metadata: object) -> None:
        with self._lock:
            self.delivered += 1

    def _fail(self, value: bytes, error: Exception) -> None:
        with self._lock:
            self.failed += 1
        self._report(error, value)

    def _expire(self, before: float, error: Exception) -> None:
        """Give up events that were queued before a moment of the monotonic clock."""
        while self._queue and self._queue[0][3] < before:
            self._fail(self._queue.popleft()[2], error)

    def _give_up(self) -> None:
        error = TimeoutError("closed before a broker took it")
        while self._queue:
            self._fail(self._queue.popleft()[2], error)

    def _report(self, error: Exception, value: bytes) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error, value)
        except Exception:
            logger.exception("on_error failed")

    def _at_exit(self) -> None:
        self.close(5.0)


def _useless(producer: Any) -> bool:
    """Tell whether an idempotent producer takes nothing any more, because a broker refused one of its batches."""
    manager = producer._transaction_manager
    return manager is not None and bool(manager.has_fatal_error())


def _plain(value: Any) -> Any:
    """Return numpy's scalars as Python's, for the encoder."""
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"an event cannot hold a {type(value).__name__}")
    return item()


def _bytes(event: Any) -> bytes:
    try:
        return _encoder.encode(event)
    except Exception:
        return b""


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_publishers: weakref.WeakSet[EventPublisher] = weakref.WeakSet()
_orphans: list[Any] = []
"""Producers of a parent process: kept, because collecting them would close connections that are not ours."""


def _begin_again_in_child() -> None:
    for publisher in list(_publishers):
        publisher._begin_again()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again_in_child)
