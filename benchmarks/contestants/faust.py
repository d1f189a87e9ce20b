"""The same job on Faust as its documentation has it: agents on single events, tables for what waits.

``python -m benchmarks.contestants.faust BROKER PREFIX PARTITIONS NAME FOLDER``. Models decode the events, an agent per
topic joins them, two tables (in memory, with their changelog topics) hold predictions and outcomes that wait. The sums
are kept in the process: they are not durable, which is to Faust's advantage.
"""

import sys
from typing import Any

import faust

from benchmarks.contestants.sums import Scoreboard
from streamapp.stream.topics import TopicPlan, Topics
from streamapp.stream.topics import create as make_topics


class Prediction(faust.Record, serializer="json"):
    """What a model answered."""

    prediction_id: str
    model: str
    ts: float
    prediction: bool
    scores: float
    group: str = "default"
    version: str | None = None
    latency: float | None = None
    features: dict[str, float] | None = None


class Outcome(faust.Record, serializer="json"):
    """What turned out to be true."""

    prediction_id: str
    ts: float
    outcome: bool


TABLES = ("pending", "early")


def make_changelogs(broker: str, partitions: int, name: str) -> None:
    """Make the topics of the tables, as Faust would.

    Made by the app itself they may be unknown to its consumer when the first events come; an agent that writes to a
    table then crashes, and its event is lost.
    """
    changelogs = [
        TopicPlan(name=f"{name}-{table}-changelog", partitions=partitions, config={"cleanup.policy": "compact"})
        for table in TABLES
    ]
    make_topics(broker, changelogs, replication=1)


def bare_app(broker: str, partitions: int, name: str, folder: str, **options: Any) -> faust.App:
    """Return an app without agents and tables, with further options of Faust's."""
    return faust.App(
        name,
        broker=f"kafka://{broker}",
        datadir=folder,
        topic_partitions=partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        cython_optimizations=True,
        web_enabled=False,
        **options,
    )


def work(app: faust.App) -> None:
    """Run a worker until it is stopped."""
    worker = faust.Worker(app, loglevel="WARNING", redirect_stdouts=False, quiet=True)
    worker.spinner = None
    worker.execute_from_commandline()


def create(broker: str, prefix: str, partitions: int, name: str, folder: str) -> faust.App:
    """Return the app."""
    topics = Topics(prefix)
    board = Scoreboard()
    app = bare_app(broker, partitions, name, folder)
    predictions = app.topic(topics.predictions, key_type=bytes, value_type=Prediction, partitions=partitions)
    outcomes = app.topic(topics.outcomes, key_type=bytes, value_type=Outcome, partitions=partitions)
    waiting, unmatched = TABLES
    pending = app.Table(waiting, key_type=str, value_type=Prediction, partitions=partitions)
    early = app.Table(unmatched, key_type=str, value_type=bool, partitions=partitions)

    @app.agent(predictions)
    async def take_predictions(stream: Any) -> None:
        async for prediction in stream:
            key = prediction.prediction_id
            if key in early:
                score(prediction, early.pop(key))
            else:
                pending[key] = prediction

    @app.agent(outcomes)
    async def take_outcomes(stream: Any) -> None:
        async for outcome in stream:
            key = outcome.prediction_id
            if key in pending:
                score(pending.pop(key), outcome.outcome)
            else:
                early[key] = outcome.outcome

    def score(prediction: Prediction, truth: bool) -> None:
        board.add(prediction.model, prediction.group, prediction.scores, prediction.prediction, truth)

    @app.task  # type: ignore[untyped-decorator]
    async def serve() -> None:
        board.serve()

    return app


def main() -> None:
    """Run a worker."""
    broker, prefix, partitions, name, folder = sys.argv[1:]
    make_changelogs(broker, int(partitions), name)
    work(create(broker, prefix, int(partitions), name, folder))


if __name__ == "__main__":
    main()
