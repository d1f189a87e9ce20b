"""``streamapp scored tail``: resolved predictions, one a line."""

import asyncio
import contextlib
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

import aiokafka
import msgspec
from aiokafka.errors import KafkaError

from streamapp.commands.broker import partitions
from streamapp.config import ProcessConfig
from streamapp.core.events import SOURCES, Scored, ScoredBatch, Tick, Verdict
from streamapp.errors import ConfigError, DecodeError
from streamapp.stream.codec import decode_scored
from streamapp.stream.topics import Topics
from streamapp.tables import fitting, moment, printable


def run(*, json: bool, from_beginning: bool, until_end: bool, everything: bool) -> None:
    """Print rows until stopped, or until the end.

    Raises:
        ConfigError: the broker does not answer, or has no such topic.
    """
    config = ProcessConfig.from_environ(os.environ)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_tail(config, json=json, from_beginning=from_beginning, until_end=until_end, everything=everything))


async def _tail(config: ProcessConfig, *, json: bool, from_beginning: bool, until_end: bool, everything: bool) -> None:
    topic = Topics(config.topic_prefix).scored
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=config.broker,
        enable_auto_commit=False,
        isolation_level="read_committed" if config.transactions else "read_uncommitted",
        **config.security(),
    )
    try:
        await consumer.start()
    except (KafkaError, OSError) as error:
        await consumer.stop()
        raise ConfigError(f"no answer from {config.broker} ({error})") from None
    try:
        waiting = {
            aiokafka.TopicPartition(topic, number) for number in await asyncio.to_thread(partitions, config, topic)
        }
        consumer.assign(waiting)
        await (consumer.seek_to_beginning() if from_beginning else consumer.seek_to_end())
        while waiting:
            batches = await consumer.getmany(timeout_ms=200)
            for tp in sorted(batches):
                for record in batches[tp]:
                    _print(tp.partition, record, json=json, everything=everything)
            sys.stdout.flush()
            if until_end and not batches:
                waiting = {tp for tp in waiting if not await _at_end(consumer, tp, config)}
    finally:
        await consumer.stop()


async def _at_end(consumer: Any, tp: Any, config: ProcessConfig) -> bool:
    # What the last fetch said of the end is what this reader can see: the end that is listed may be another.
    end = consumer.last_stable_offset(tp) if config.transactions else consumer.highwater(tp)
    return end is not None and await consumer.position(tp) >= end


def _print(partition: int, record: Any, *, json: bool, everything: bool) -> None:
    try:
        message = decode_scored(record.value or b"")
    except DecodeError as error:
        sys.stderr.write(f"streamapp: scored[{partition}] offset {record.offset}: {error}\n")
        return
    for line in lines(message, partition, record.offset, everything=everything):
        sys.stdout.write((fitting(msgspec.json.encode(line).decode()) if json else _text(line)) + "\n")


def lines(message: Scored, partition: int, offset: int, *, everything: bool = False) -> Iterator[dict[str, Any]]:
    """Yield one object for each row of a scored message; arrivals and ticks are wanted only with *everything*."""
    where = {"scored_partition": partition, "scored_offset": offset}
    if isinstance(message, ScoredBatch):
        for row in range(len(message)):
            yield {**where, **_row(message, row)}
    elif everything:
        yield {
            **where,
            "tick" if isinstance(message, Tick) else "arrivals": msgspec.to_builtins(message, str_keys=True),
        }


def _row(batch: ScoredBatch, row: int) -> dict[str, Any]:
    verdict = Verdict(batch.verdict[row])
    outcome_offset = int(batch.outcome_offset[row])
    return {
        "row": row,
        "source_partition": batch.partition,
        "source_offset": int(batch.offset[row]),
        "outcome_offset": outcome_offset if outcome_offset >= 0 else None,
        "prediction_id_hash": f"{int(batch.id_hash[row]):016x}",
        "model": batch.model,
        "group": batch.group[row],
        "version": batch.version[row],
        "series": batch.series[row],
        "unit": batch.unit[row],
        "ts": float(batch.ts[row]),
        "log_time": float(batch.log_time[row]),
        "outcome_ts": _defined(batch.outcome_ts[row]),
        "outcome_log_time": _defined(batch.outcome_log_time[row]),
        "verdict": verdict.name.lower(),
        "prediction": batch.prediction[row],
        "scores": _scores(batch, row),
        "outcome": batch.outcome[row],
        "loss": _defined(batch.loss[row]),
        "source": SOURCES[int(batch.outcome_source[row])] if verdict is Verdict.JOINED else None,
        "latency": _defined(batch.latency[row]),
    }


def _scores(batch: ScoredBatch, row: int) -> float | dict[str, float] | None:
    if (score := _defined(batch.score[row])) is not None or not batch.classes:
        return score
    given = {
        name: float(p) for name, p in zip(batch.classes, batch.probabilities[row], strict=True) if not math.isnan(p)
    }
    return given or None


def _defined(value: float) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number


def _text(line: dict[str, Any]) -> str:
    if "verdict" not in line:
        return f"{line['scored_partition']}:{line['scored_offset']} {'tick' if 'tick' in line else 'arrivals'}"
    place = f"{line['scored_partition']}:{line['scored_offset']}:{line['row']}"
    answer = line["prediction"] if line["prediction"] is not None else line["scores"]
    who = printable(f"{line['model']}/{line['group']}")
    return f"{moment(line['ts'])} {place} {who} {line['verdict']} {answer!r} → {line['outcome']!r}"
