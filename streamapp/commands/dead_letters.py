"""``streamapp dead-letters``: what could not be used, and sending it again once the cause is mended.

Nothing of a message itself is shown: it may hold what is nobody's business on a terminal.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from heapq import heappush, heappushpop
from typing import Any

import typer

from streamapp.commands.broker import partitions, reading
from streamapp.config import ProcessConfig
from streamapp.errors import StreamappError
from streamapp.stream.producer import PlainProducer, Producer, TransactionalProducer
from streamapp.stream.redrive import Letter, again, letter, note, noted
from streamapp.stream.topics import Topics
from streamapp.tables import interactive, moment, printable, to_json

CHUNK = 500
"""Letters of one transaction."""
CHUNK_BYTES = 8 << 20


def show(*, json: bool, reason: str | None, limit: int) -> None:
    """Print the newest letters, and how many there are by reason.

    Raises:
        ConfigError: The broker does not answer, or has no such topic.
    """
    config = ProcessConfig.from_environ(os.environ)
    letters, redriven = asyncio.run(_look(config, reason, limit))
    if json:
        newest = [{**asdict(one), "redriven": _place(one) in redriven} for one in letters.newest]
        report = {"total": letters.total, "reasons": letters.reasons, "letters": newest}
        typer.echo(to_json(report))
        return
    for one in letters.newest:
        source = f"{one.topic}[{one.source_partition}] {one.source_offset}"
        mark = " (redriven)" if _place(one) in redriven else ""
        said = printable(f"{source} {one.reason}: {one.error}")
        typer.echo(f"{moment(one.at)} {one.partition}:{one.offset}{mark} {said}")
    counted = ", ".join(f"{count} {name}" for name, count in letters.reasons.items())
    typer.echo(f"{letters.total} letters" + (f": {counted}" if counted else ""), err=True)


def redrive(*, reason: str | None, dry_run: bool, yes: bool, json: bool) -> int:
    """Send letters again that were not redriven yet, and return the exit code.

    Raises:
        ConfigError: The broker does not answer, or has no such topic.
    """
    config = ProcessConfig.from_environ(os.environ)
    ask = not (dry_run or yes or json) and interactive()
    report = asyncio.run(_redrive(config, reason, dry_run=dry_run, ask=ask))
    if json:
        typer.echo(to_json(report))
        return 0
    what = "would be sent" if dry_run else "sent"
    for topic, count in report["topics"].items():
        typer.echo(f"{count} {what} to {topic}")
    if not report["topics"]:
        typer.echo("no letter to redrive")
    for why, count in report["refused"].items():
        typer.echo(f"{count} refused, {why}")
    if report["before"]:
        typer.echo(f"{report['before']} left alone, redriven before")
    return 0


class _Counted:
    """Letters of interest: all counted, the newest kept."""

    def __init__(self, limit: int) -> None:
        self.reasons: Counter[str] = Counter()
        self._limit = limit
        self._newest: list[tuple[float, int, int, Letter]] = []

    def add(self, one: Letter) -> None:
        self.reasons[one.reason] += 1
        item = (one.at, one.partition, one.offset, one)
        if len(self._newest) < self._limit:
            heappush(self._newest, item)
        else:
            heappushpop(self._newest, item)

    @property
    def total(self) -> int:
        return self.reasons.total()

    @property
    def newest(self) -> list[Letter]:
        """Oldest first."""
        return [one for *_, one in sorted(self._newest)]


_Place = tuple[int, int]


def _place(one: Letter) -> _Place:
    return one.partition, one.offset


async def _look(config: ProcessConfig, reason: str | None, limit: int) -> tuple[_Counted, set[_Place]]:
    counted, redriven = _Counted(limit), set[_Place]()
    async for record in _records(config):
        offsets = noted(record)
        if offsets is not None:
            redriven.update((record.partition, offset) for offset in offsets)
        elif reason in (None, (one := letter(record)).reason):
            counted.add(one)
    return counted, redriven


async def _records(config: ProcessConfig) -> AsyncIterator[Any]:
    topic = Topics(config.topic_prefix).dead_letters
    numbers = await asyncio.to_thread(partitions, config, topic)
    async with reading(config) as reader:
        for number in numbers:
            async for records, _ in reader.read(topic, number):
                for record in records:
                    yield record


async def _redrive(config: ProcessConfig, reason: str | None, *, dry_run: bool, ask: bool) -> dict[str, Any]:
    topics = Topics(config.topic_prefix)
    if dry_run:
        report, _ = await _choose(config, topics, reason)
        return report
    await asyncio.to_thread(partitions, config, topics.dead_letters)
    producer = _producer(config)
    try:
        # First this: another redrive that is under way is refused from here on, and all that it sent can be seen.
        await producer.start()
        report, chosen = await _choose(config, topics, reason)
        if ask and chosen:
            counts = ", ".join(f"{count} to {topic}" for topic, count in report["topics"].items())
            typer.confirm(f"Send {counts}?", abort=True, err=True)
        await _send(config, topics, producer, chosen)
    finally:
        await producer.stop()
    return report


async def _choose(config: ProcessConfig, topics: Topics, reason: str | None) -> tuple[dict[str, Any], set[_Place]]:
    """Return what is to be said, and the places of the letters that are to be sent."""
    letters: list[Letter] = []
    redriven: set[_Place] = set()
    async for record in _records(config):
        offsets = noted(record)
        if offsets is not None:
            redriven.update((record.partition, offset) for offset in offsets)
        elif reason in (None, (one := letter(record)).reason):
            letters.append(one)
    fresh = [one for one in letters if _place(one) not in redriven]
    chosen = [one for one in fresh if one.refusal(topics) is None]
    report = {
        "topics": dict(Counter(one.topic for one in chosen)),
        "refused": dict(Counter(why for one in fresh if (why := one.refusal(topics)) is not None)),
        "before": len(letters) - len(fresh),
    }
    return report, set(map(_place, chosen))


async def _send(config: ProcessConfig, topics: Topics, producer: Producer, chosen: Iterable[_Place]) -> None:
    """Send the letters at these places, each chunk in one transaction with the note about it."""
    wanted = set(chosen)
    chunk: list[Any] = []
    sent = 0

    async def commit() -> None:
        nonlocal sent
        offsets: dict[int, list[int]] = {}
        for record in chunk:
            offsets.setdefault(record.partition, []).append(record.offset)
        notes = [note(topics, partition, places) for partition, places in offsets.items()]
        try:
            await producer.commit([*(again(record, topics) for record in chunk), *notes])
        except StreamappError as error:
            raise StreamappError(f"{error}; {sent} letters were sent before, and will not be sent again") from error
        sent += len(chunk)
        chunk.clear()

    async for record in _records(config):
        if (record.partition, record.offset) not in wanted:
            continue
        chunk.append(record)
        if len(chunk) >= CHUNK or sum(len(each.value) for each in chunk) > CHUNK_BYTES:
            await commit()
    if chunk:
        await commit()


def _producer(config: ProcessConfig) -> Producer:
    name = f"{config.topic_prefix}redrive"
    return TransactionalProducer(config, name) if config.transactions else PlainProducer(config, name)
