"""What a producer service uses to publish its predictions and their outcomes.

>>> publisher = EventPublisher("localhost:9092")  # doctest: +SKIP
>>> publisher.prediction(prediction_id="p-1", model="fraud", prediction=True, scores=0.91)  # doctest: +SKIP
>>> publisher.outcome(prediction_id="p-1", outcome=False)  # doctest: +SKIP
"""

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing.util import Finalize
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal, Self

from streamapp.address import parse
from streamapp.errors import ConfigError
from streamapp.publishing.carrier import Carrier, Waiting
from streamapp.publishing.encoding import Event, as_bytes, encode
from streamapp.publishing.kafka_python import KafkaPython, check

__all__ = ["Client", "Compression", "Event", "EventPublisher"]

logger = logging.getLogger(__name__)

Compression = Literal["gzip", "lz4", "snappy", "zstd"]
Client = Literal["kafka-python", "confluent-kafka"]

_LONGEST_PAUSE = 5.0
"""Seconds between two attempts to reach a broker, at most."""
_LOOK = 0.005
"""Seconds between two looks for receipts, at most."""
_LETTING_GO = 8.0
"""Seconds that a client may take to end where a broker hangs, at most: to notice that it should, and to do it."""


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
        compression: Codec of the batches; with kafka-python all but gzip need a library that it can find.
        delivery_timeout: Seconds after which an event that no broker took counts as failed.
        client: Package that speaks with Kafka. ``kafka-python`` is always there and takes some thousand events a
            second; ``confluent-kafka``, the extra of that name, takes ten times as many. Both promise the same. None:
            confluent-kafka where it is installed and knows all that *security* says.
        security: How to reach a secured broker, in kafka-python's words, e.g. ``security_protocol="SSL"``.

    Raises:
        ConfigError: An argument cannot be right, or *client* is not installed.
    """

    _thread: threading.Thread | None

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
        client: Client | None = None,
        **security: Any,
    ) -> None:
        parse(broker)
        if queue_size < 1 or linger < 0 or delivery_timeout <= linger:
            raise ConfigError("EventPublisher needs queue_size >= 1 and 0 <= linger < delivery_timeout")
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
        self._carrier = self._choose(client, compression, security)
        self._closed = False
        self._begin()
        _publishers.add(self)

    def publish(self, event: Event) -> bool:
        """Queue an event, and tell whether it was taken. Never raises, never waits."""
        try:
            is_prediction, key, value = encode(event)
        except Exception as error:  # whatever an event holds must not reach the caller's own work
            with self._lock:
                self.rejected += 1
            self._report(error, as_bytes(event))
            return False
        topic = self._predictions if is_prediction else self._outcomes
        with self._lock:
            taken = not self._closed and self.published - self.delivered - self.failed < self._queue_size
            if taken:
                self._handed.put((topic, key, value, time.monotonic()))
                self.published += 1
                if self._thread is None:
                    self._start()
            else:
                self.dropped += 1
        if not taken:
            why = "the publisher is closed" if self._closed else f"{self._queue_size} events wait already"
            self._report(OverflowError(why), value)
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

        Those that no broker took within *timeout* seconds count as failed; it takes some seconds longer to let go of a
        broker that hangs. It may be called by a signal's handler.
        """
        end = time.monotonic() + timeout
        with self._lock:
            self._closed = True
        self._close_at_exit()
        if self._running() is not None:
            self.flush(timeout)
        self._ending.set()
        self._handed.put(None)
        if (thread := self._running()) is not None:
            thread.join(max(0.0, end - time.monotonic()) + _LETTING_GO)
        self._thread = None
        self._give_up()
        return self.delivered == self.published

    def __enter__(self) -> Self:
        """Return the publisher itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    @property
    def client(self) -> str:
        """The package that speaks with Kafka."""
        return self._carrier.name

    def _choose(self, client: Client | None, compression: Compression | None, options: dict[str, Any]) -> Carrier:
        common: dict[str, Any] = {
            "broker": self._broker,
            "linger": self._linger,
            "delivery_timeout": self._delivery_timeout,
            "compression": compression,
        }
        receipts = _Receipts(self)
        if client != "kafka-python":
            try:
                from streamapp.publishing.confluent import Confluent

                return Confluent(receipts, options, queue_size=self._queue_size, **common)
            except (ImportError, ConfigError) as error:
                if client is not None:
                    missing = isinstance(error, ImportError)
                    raise ConfigError(_MISSING.format(error) if missing else str(error)) from None
        check(options, compression)
        return KafkaPython(receipts, options, **common)

    def _begin(self) -> None:
        # Both may be taken again by the thread that has them: in a signal's handler.
        self._lock = threading.RLock()
        """Of those who publish and close. The publisher's thread never waits for it."""
        self._counting = threading.RLock()
        """Of what became of the events."""
        self._handed: SimpleQueue[Waiting | None] = SimpleQueue()
        """What callers hand over; None wakes the thread."""
        self._queue: deque[Waiting] = deque()
        """What the thread has taken from there, and not yet sent."""
        self._taken = 0
        """Events that it has taken from there so far."""
        self._ending = threading.Event()
        self._thread = None
        self._finalizer: Finalize | None = None

    def _begin_again(self) -> None:
        """Begin anew in a forked child, which has none of the parent's threads and must not use its sockets."""
        self._carrier.abandon()
        self.published = self.delivered = self.failed = self.dropped = self.rejected = 0
        self._begin()

    def _start(self) -> None:
        """Start the thread; where none can be had, the next event tries again."""
        if self._closed:  # by a signal's handler, just before the event was handed over
            self._give_up()
            return
        self._close_at_exit()
        thread = self._thread = threading.Thread(target=self._run, name="streamapp-publisher", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._thread = None
            logger.warning("events wait, because no thread can be started to publish them: %s", error)

    def _running(self) -> threading.Thread | None:
        """Return the thread, None where there is none or it has not begun or has ended."""
        thread = self._thread
        return thread if thread is not None and thread.is_alive() else None

    def _close_at_exit(self) -> None:
        """Have the publisher closed when the process ends, unless it is by then."""
        # Functions registered last run first: ours must come before the client's own.
        atexit.unregister(self._at_exit)
        if self._finalizer is not None:
            self._finalizer.cancel()
        if not self._closed:
            atexit.register(self._at_exit)
            # A forked child of multiprocessing calls these alone.
            self._finalizer = Finalize(None, self._at_exit, exitpriority=1)

    def _run(self) -> None:
        """Take events from the queue to Kafka, until closed."""
        pause = 0.1
        while not self._ending.is_set():
            self._collect()
            try:
                self._carrier.carry(self._queue, self._ending)
                pause = 0.1
            except Exception as error:
                logger.warning("events wait, because Kafka at %s does not take them: %s", self._broker, error)
                self._expire(time.monotonic() - self._delivery_timeout, error)
                self._ending.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._carrier.close()

    def _collect(self) -> None:
        """Wait for events and take what has come; wait shortly while there are receipts to look for."""
        is_idle = self._taken == self.delivered + self.failed
        try:
            first = self._handed.get(timeout=None if is_idle else _LOOK)
        except Empty:
            return
        self._ending.wait(self._linger)
        self._take(first)
        for _ in range(self._handed.qsize()):
            self._take(self._handed.get())

    def _take(self, waiting: Waiting | None) -> None:
        if waiting is not None:
            self._queue.append(waiting)
            self._taken += 1

    def _fail(self, value: bytes, error: Exception) -> None:
        with self._counting:
            self.failed += 1
        self._report(error, value)

    def _expire(self, before: float, error: Exception) -> None:
        """Give up events that were queued before a moment of the monotonic clock."""
        while self._queue and self._queue[0][3] < before:
            self._fail(self._queue.popleft()[2], error)

    def _give_up(self) -> None:
        error = TimeoutError("closed before a broker took it")
        while not self._handed.empty():
            self._take(self._handed.get())
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


class _Receipts:
    """What became of a publisher's events."""

    def __init__(self, publisher: EventPublisher) -> None:
        self._of = publisher

    def delivered(self, count: int) -> None:
        """See :class:`streamapp.publishing.carrier.Receipts`."""
        with self._of._counting:
            self._of.delivered += count

    def failed(self, value: bytes, error: Exception) -> None:
        """See :class:`streamapp.publishing.carrier.Receipts`."""
        self._of._fail(value, error)

    def connected(self) -> None:
        """See :class:`streamapp.publishing.carrier.Receipts`."""
        self._of._close_at_exit()


_publishers: weakref.WeakSet[EventPublisher] = weakref.WeakSet()
_MISSING = "client='confluent-kafka' needs the extra of that name: pip install 'streamapp[confluent-kafka]' ({})"


def _begin_again_in_child() -> None:
    for publisher in list(_publishers):
        publisher._begin_again()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again_in_child)
