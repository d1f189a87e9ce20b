"""Takes a task over for a moment, to change what it has stored on purpose.

Whoever has the task is fenced by that: its next commit is refused, its process ends, and a fresh one begins from what
was stored here. So nobody writes at the same time, and no worker needs to be stopped for it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from streamapp.commands.broker import reading
from streamapp.config import ProcessConfig, Role
from streamapp.errors import ConfigError, StreamappError
from streamapp.stream.checkpoint import Checkpoint
from streamapp.stream.producer import Fenced, Producer, Record, producer
from streamapp.stream.topics import Topics

NEEDS_TRANSACTIONS = (
    "STREAMAPP_TRANSACTIONS is false: without transactions a worker may write at the same time, so nothing is changed"
)


class TakenBack(StreamappError):
    """A worker took the task over in the meantime. Nothing was changed; try again."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A task that is ours for a moment."""

    checkpoint: Checkpoint
    entries: Mapping[bytes, bytes]
    """Of the task's core."""
    producer: Producer

    async def commit(self, records: Sequence[Record]) -> None:
        """Write all of it in one transaction.

        Raises:
            TakenBack: nothing was written, since a worker has the task again.
            CommitFailed: it is not known whether it was written.
        """
        try:
            await self.producer.commit(records)
        except Fenced as error:
            raise TakenBack(f"{self.checkpoint}: a worker took its task over meanwhile; nothing was changed") from error


def configured() -> ProcessConfig:
    """Return what the environment says, for a command that changes what tasks have stored.

    Raises:
        ConfigError: something in it is wrong, or the broker has no transactions.
    """
    config = ProcessConfig.from_environ(os.environ)
    if not config.transactions:
        raise ConfigError(NEEDS_TRANSACTIONS)
    return config


@asynccontextmanager
async def taken(config: ProcessConfig, role: Role, partition: int) -> AsyncIterator[Taken]:
    """Take a task over, and let it go again.

    Raises:
        CheckpointError: what it has stored cannot be read.
        ConfigError: the broker does not answer, or the task has never stored anything.
    """
    writer = producer(config, role, partition)
    try:
        await writer.start()
        checkpoint = Checkpoint(Topics(config.topic_prefix).checkpoints(role), partition)
        async with reading(config) as reader:
            entries = await checkpoint.load(reader)
        if entries is None:
            raise ConfigError(f"{role}-{partition} has not stored anything yet: start a worker first")
        yield Taken(checkpoint, entries, writer)
    finally:
        await asyncio.shield(writer.stop())
