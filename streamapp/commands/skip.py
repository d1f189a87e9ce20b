"""``streamapp skip``: moves a record that a bug cannot pass to ``dead-letters``."""

import asyncio
from dataclasses import dataclass
from typing import Any

import typer

from streamapp.commands.broker import partitions, reading
from streamapp.commands.takeover import TakenBack, configured, taken
from streamapp.config import ProcessConfig, Role
from streamapp.core.events import DeadLetter
from streamapp.errors import CheckpointError, ConfigError
from streamapp.stream.culprit import unpassed
from streamapp.stream.dead_letters import dead_letter
from streamapp.stream.quarantine import QUARANTINED
from streamapp.stream.topics import Topics
from streamapp.tables import interactive, moment, to_json

READERS: dict[str, Role] = {
    "predictions": "joiner",
    "outcomes": "joiner",
    "scored": "monitor",
    "retrain": "learner",
}
"""Who reads which topic."""
TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the record is, and whose it is."""

    topic: str
    """Without the prefix."""
    partition: int
    offset: int
    role: Role

    @property
    def task(self) -> str:
        return f"{self.role}-{self.partition}"


def run(topic: str, partition: int, offset: int, *, yes: bool, json: bool) -> int:
    """Move one record to ``dead-letters``, and return the exit code: 1 where it is too late for that.

    Args:
        topic: With or without the prefix.
        partition: Its number.
        offset: Of the record.
        yes: Do not ask, not even on a terminal.
        json: Print an object rather than a line.

    Raises:
        ConfigError: No task reads such a topic, it has no such record, or the broker does not answer or has no
            transactions.
        CheckpointError: What the task has stored cannot be read.
    """
    config = configured()
    settings = config.settings()
    topics = Topics(config.topic_prefix)
    short = topics.short(topic)
    if short not in READERS:
        raise ConfigError(f"--topic must be one of {', '.join(READERS)}, got {topic!r}")
    place = _Place(topic=short, partition=partition, offset=offset, role=READERS[short])
    full = f"{topics.full(short)}[{partition}]"
    numbers = partitions(config, topics.full(short))
    if partition not in numbers:
        raise ConfigError(f"{topics.full(short)} has partitions {numbers[0]} to {numbers[-1]}, got {partition}")
    record = asyncio.run(_record(config, topics, place))
    if not (yes or json) and interactive():
        typer.echo(
            f"offset {offset} of {full} is of {moment(record.timestamp / 1000)}, {len(record.value or b''):,} bytes."
            f" {place.task} will leave it out; the worker that has the task begins anew.",
            err=True,
        )
        typer.confirm(f"Move it to {topics.dead_letters}?", abort=True, err=True)
    for attempt in range(TRIES):
        try:
            said, code = asyncio.run(_move(config, settings, topics, place, record))
            break
        except TakenBack:
            if attempt + 1 == TRIES:
                raise
    if json:
        report = {"topic": topics.full(short), "partition": partition, "offset": offset, "task": place.task}
        typer.echo(to_json({**report, "result": said}))
    else:
        typer.echo(_SAID[said].format(what=f"offset {offset} of {full}", to=topics.dead_letters, task=place.task))
    return code


_SAID = {
    "moved": "{what} was moved to {to}; {task} leaves it out",
    "already": "{what} was moved to {to} before; {task} leaves it out",
    "passed": "{what} was applied before by {task}: nothing was moved",
}


async def _record(config: ProcessConfig, topics: Topics, place: _Place) -> Any:
    name = topics.full(place.topic)
    try:
        async with reading(config) as reader:
            record = await reader.record(name, place.partition, place.offset)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    if record is None:
        raise ConfigError(f"{name}[{place.partition}] has no record at offset {place.offset}: a marker, or nothing")
    return record


async def _move(config: ProcessConfig, settings: Any, topics: Topics, place: _Place, record: Any) -> tuple[str, int]:
    """Move the record unless it is too late; return what came of it, and the exit code."""
    name = topics.full(place.topic)
    async with taken(config, place.role, place.partition) as task:
        checkpoint = task.checkpoint
        if place.offset in checkpoint.quarantined.get(name, ()):
            return "already", 0
        lowest = unpassed(place.role, place.partition, settings, task.entries, checkpoint.inputs)
        if place.offset < lowest[name]:
            return "passed", 1
        checkpoint.quarantined.setdefault(name, set()).add(place.offset)
        letter = DeadLetter(
            topic=place.topic,
            partition=place.partition,
            offset=place.offset,
            key=record.key,
            value=record.value,
            reason=QUARANTINED,
            error=f"{place.task} could not pass it: moved here by streamapp skip",
        )
        await task.commit([dead_letter(topics, letter), checkpoint.note(None)])
    return "moved", 0
