"""What commands ask of a broker, with its failures as a user's one line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.errors import KafkaError

from streamapp.config import ProcessConfig
from streamapp.errors import ConfigError
from streamapp.stream.reader import NoAnswer, Reader
from streamapp.stream.topics import connected

ANSWER_WITHIN = 10.0
"""Seconds."""


def partitions(config: ProcessConfig, topic: str) -> list[int]:
    """Return the partitions of a topic.

    Raises:
        ConfigError: No broker answers, or it has no such topic.
    """
    with connected(config.broker, ANSWER_WITHIN, config.security()) as admin:
        (found,) = admin.describe_topics([topic])
    if not found["partitions"]:
        raise ConfigError(f"{config.broker} has no topic {topic}: make it by `streamapp topics --create`")
    return sorted(each["partition_index"] for each in found["partitions"])


@asynccontextmanager
async def reading(config: ProcessConfig) -> AsyncIterator[Reader]:
    """Lend a reader.

    Raises:
        ConfigError: The broker does not answer, or stops to.
    """
    try:
        async with Reader(config) as reader:
            yield reader
    except (KafkaError, OSError, NoAnswer) as error:
        raise ConfigError(f"no answer from {config.broker} ({error})") from None
