"""By what a topic is told from another one of the same name."""

from collections.abc import Sequence
from typing import Any

from streamapp.stream.topics import NoBroker, connected


def ids_of(broker: str, names: Sequence[str], *, timeout: float = 3.0, **security: Any) -> dict[str, str]:
    """Return the ids by which the broker tells topics from others that had the same names.

    Those of brokers before Apache Kafka 2.8, and of topics that are not there, are left out; of all where no broker
    answers in time.

    Args:
        broker: ``host:port``, several with commas between.
        names: Of the topics.
        timeout: Seconds to wait for the broker.
        security: How to reach a secured broker, in kafka-python's words.
    """
    try:
        with connected(broker, timeout, security) as admin:
            found = admin.describe_topics(list(names))
    except NoBroker:
        return {}
    ids = {each["name"]: str(each["topic_id"]) for each in found if not each["error_code"] and each.get("topic_id")}
    return {name: topic_id for name, topic_id in ids.items() if topic_id.strip("0-")}
