"""Events for others: JSON with CloudEvents headers (Kafka binary mode)."""

from datetime import UTC, datetime

from streamapp.core.events import ModelUpdate, RetrainRequest, Signal
from streamapp.stream.codec import encode_event
from streamapp.stream.producer import Record

LATEST = 253402300799.0
"""The last second of the year 9999: later ones have no RFC 3339 time."""


def cloud_event(topic: str, key: str, kind: str, event: Signal | RetrainRequest | ModelUpdate, at: float) -> Record:
    """Return the record that publishes an event.

    Args:
        topic: Full name.
        key: The model.
        kind: Last word of ``ce_type``.
        event: What happened; its id becomes ``ce_id``.
        at: When, in seconds since the epoch. What lies before it, or after :data:`LATEST`, is said as these.
    """
    return Record(
        topic=topic,
        partition=None,
        key=key.encode(),
        value=encode_event(event),
        headers=(
            ("ce_specversion", b"1.0"),
            ("ce_id", event.id.encode()),
            ("ce_type", f"streamapp.{kind}".encode()),
            ("ce_source", f"/{topic}".encode()),
            ("ce_time", datetime.fromtimestamp(min(max(at, 0.0), LATEST), UTC).isoformat().encode()),
            ("content-type", b"application/json"),
        ),
    )
