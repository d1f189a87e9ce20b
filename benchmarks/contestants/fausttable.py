"""Predictions that wait in a Faust table, and nothing else: what it takes until they are back.

``python -m benchmarks.contestants.fausttable BROKER PARTITIONS NAME FOLDER STORE``. The table is that of
:mod:`benchmarks.contestants.faust`; *STORE* is ``memory://`` or ``rocksdb://``. :func:`fill` writes its changelog as
the app itself would, but as fast as a topic can be written. The process prints one line of JSON when it is done.
"""

import asyncio
import sys
import time
from typing import Any

import aiokafka
import faust
import msgspec

from benchmarks.contestants.faust import Prediction, bare_app, work
from benchmarks.recording import send
from benchmarks.waiting import Waiting, pieces
from streamapp.stream.topics import TopicPlan
from streamapp.stream.topics import create as make_topics

TABLE = "pending"


def fill(broker: str, name: str, what: Waiting) -> None:
    """Make the topics of the app, and write the changelog of a table with every prediction that waits."""
    plans = [
        TopicPlan(name=f"{name}-source", partitions=what.partitions, config={}),
        TopicPlan(name=changelog(name), partitions=what.partitions, config={"cleanup.policy": "compact"}),
    ]
    make_topics(broker, plans, replication=1)
    asyncio.run(_fill(broker, name, what))


def changelog(name: str) -> str:
    """Return the name of the changelog topic."""
    return f"{name}-{TABLE}-changelog"


async def _fill(broker: str, name: str, what: Waiting) -> None:
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker, max_batch_size=1 << 20, linger_ms=5)
    await producer.start()
    try:
        for topic, rows in pieces(what, time.time()):
            if topic == "predictions":
                values = [
                    (b'"%b"' % key, Prediction(**msgspec.json.decode(message)).dumps())
                    for key, message in rows
                    if what.waits(int(key[-12:]))
                ]
                await send(producer, changelog(name), values, what.partitions)
    finally:
        await producer.stop()


def create(broker: str, partitions: int, name: str, folder: str, store: str) -> faust.App:
    """Return the app."""
    app = bare_app(broker, partitions, name, folder, store=store)
    source = app.topic(f"{name}-source", key_type=bytes, value_type=Prediction, partitions=partitions)
    pending = app.Table(TABLE, key_type=str, value_type=Prediction, partitions=partitions)
    assigned = [0.0, 0.0]

    @app.agent(source)
    async def take(stream: Any) -> None:
        async for prediction in stream:
            pending[prediction.prediction_id] = prediction

    @app.on_partitions_assigned.connect
    async def on_assigned(*_: Any, **__: Any) -> None:
        assigned[:] = time.monotonic(), time.process_time()

    @pending.on_recover
    async def recovered() -> None:
        at, cpu = time.monotonic(), time.process_time()
        some = next(iter(pending.values()), None)
        found = {
            "ready": at,
            "seconds": at - assigned[0],
            "cpu_seconds": cpu - assigned[1],
            "keys": len(pending),
            "kind": type(some).__name__,
        }
        print(msgspec.json.encode(found).decode(), flush=True)

    return app


def main() -> None:
    """Run a worker."""
    broker, partitions, name, folder, store = sys.argv[1:]
    work(create(broker, int(partitions), name, folder, store))


if __name__ == "__main__":
    main()
