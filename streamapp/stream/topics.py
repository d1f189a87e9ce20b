"""The topics: their names, how each should be, making them, and finding out what is wrong with them.

Nothing here alters or deletes a topic that exists.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from streamapp.address import unreachable
from streamapp.errors import ConfigError

DAY = 86_400.0
BROKER_DEFAULT = -1
"""Replication factor: whatever the broker makes by itself."""

ABORT_SWEEP = "transaction.abort.timed.out.transaction.cleanup.interval.ms"
TIMESTAMP = "message.timestamp.type"
CLEANUP = "cleanup.policy"
RETENTION = "retention.ms"
RETENTION_BYTES = "retention.bytes"
IN_SYNC = "min.insync.replicas"
UNCLEAN = "unclean.leader.election.enable"
MAX_MESSAGE = "max.message.bytes"

_LARGE_MESSAGES = {MAX_MESSAGE: str(2 * 1024 * 1024)}
_COMPACTED = {
    CLEANUP: "compact",
    # A restore reads the whole partition, so what is superseded should be gone soon.
    "segment.bytes": str(16 * 1024 * 1024),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.1",
    "delete.retention.ms": str(600_000),
    **_LARGE_MESSAGES,
}


class NoBroker(ConfigError):
    """No broker answers, or it refuses. Try again, or name another."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Full names of the topics of one deployment."""

    prefix: str = "streamapp."

    def full(self, name: str) -> str:
        """Return a topic's full name, given its name in the documentation, e.g. ``model-updates``."""
        return self.prefix + name

    def short(self, topic: str) -> str:
        """Return a topic's name in the documentation, given its full name."""
        return topic.removeprefix(self.prefix)

    @property
    def predictions(self) -> str:
        """What models answered, by prediction_id."""
        return self.full("predictions")

    @property
    def outcomes(self) -> str:
        """What turned out to be true, by prediction_id."""
        return self.full("outcomes")

    @property
    def scored(self) -> str:
        """Resolved predictions in columns, by model."""
        return self.full("scored")

    @property
    def signals(self) -> str:
        """What somebody should know about a model, by model."""
        return self.full("signals")

    @property
    def retrain(self) -> str:
        """Wishes for training, by model."""
        return self.full("retrain")

    @property
    def reviews(self) -> str:
        """Questions to people, by prediction_id."""
        return self.full("reviews")

    @property
    def decisions(self) -> str:
        """Verdicts of comparisons, by model."""
        return self.full("decisions")

    @property
    def model_updates(self) -> str:
        """What came of retrain requests, by model."""
        return self.full("model-updates")

    @property
    def dead_letters(self) -> str:
        """Messages that could not be used, whole."""
        return self.full("dead-letters")

    def checkpoints(self, role: str) -> str:
        """Return the compacted topic that a role keeps its state in."""
        return self.full(f"checkpoints-{role}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    """How one topic should be."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    """Settings that differ from the broker's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How one topic is."""

    partitions: int
    replicas: int
    """The fewest that any of its partitions has."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Every setting in force; empty where the broker does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the topics or the broker that should be otherwise."""

    severity: Literal["problem", "advice"]
    """Workers cannot keep what is promised, or it would be safer in production."""
    text: str
    remedy: str


def plan(
    topics: Topics,
    *,
    partitions: int = 8,
    scored_partitions: int = 4,
    retention: float = 7 * DAY,
) -> tuple[TopicPlan, ...]:
    """Return how every topic of a deployment should be.

    Args:
        topics: Their names.
        partitions: Partitions of ``predictions`` and ``outcomes``, and so tasks of the joiner.
        scored_partitions: Partitions of ``scored`` and ``retrain``, and so tasks of the monitor and of the learner.
        retention: Seconds that inputs and scored rows are kept.
    """
    kept = {RETENTION: _milliseconds(retention)}
    # Log time must be one clock, the broker's: with CreateTime one producer's wrong clock moves it by an hour.
    inputs = {TIMESTAMP: "LogAppendTime", **kept}
    events = {RETENTION: _milliseconds(max(retention, 30 * DAY))}
    return (
        TopicPlan(name=topics.predictions, partitions=partitions, config=inputs),
        TopicPlan(name=topics.outcomes, partitions=partitions, config=inputs),
        TopicPlan(name=topics.scored, partitions=scored_partitions, config={**inputs, **_LARGE_MESSAGES}),
        TopicPlan(name=topics.retrain, partitions=scored_partitions, config=events),
        TopicPlan(name=topics.signals, partitions=1, config=events),
        TopicPlan(name=topics.decisions, partitions=1, config=events),
        TopicPlan(name=topics.reviews, partitions=1, config=events),
        TopicPlan(name=topics.model_updates, partitions=1, config=events),
        TopicPlan(name=topics.dead_letters, partitions=1, config={**events, **_LARGE_MESSAGES}),
        TopicPlan(name=topics.checkpoints("joiner"), partitions=partitions, config=_COMPACTED),
        TopicPlan(name=topics.checkpoints("monitor"), partitions=scored_partitions, config=_COMPACTED),
        TopicPlan(name=topics.checkpoints("learner"), partitions=scored_partitions, config=_COMPACTED),
    )


def create(
    broker: str,
    plans: Iterable[TopicPlan],
    *,
    replication: int = BROKER_DEFAULT,
    timeout: float = 10.0,
    **security: Any,
) -> list[str]:
    """Make the topics that do not exist yet, and return their names once every partition has a leader.

    Args:
        broker: ``host:port``, several with commas between.
        plans: How they should be; a topic that exists stays as it is.
        replication: Copies of each partition.
        timeout: Seconds to wait for the broker.
        security: How to reach a secured broker, in kafka-python's words.

    Raises:
        ConfigError: The broker cannot be reached or refused; the message says which topic and why.
    """
    made: list[str] = []
    with connected(broker, timeout, security) as admin:
        for each in plans:
            wish = {
                each.name: {
                    "num_partitions": each.partitions,
                    "replication_factor": replication,
                    "configs": dict(each.config),
                }
            }
            (result,) = admin.create_topics(wish, timeout_ms=int(timeout * 1000), raise_errors=False)["topics"]
            error = for_code(result["error_code"])
            if error is TopicAlreadyExistsError:
                continue
            if result["error_code"]:
                why = result["error_message"] or error.__name__
                raise ConfigError(f"{each.name} could not be made at {broker}: {why}")
            made.append(each.name)
        admin.wait_for_topics(made, timeout_ms=int(timeout * 1000))
    return made


def check(
    broker: str, plans: Sequence[TopicPlan], *, keep: float = 0.0, timeout: float = 10.0, **security: Any
) -> list[Finding]:
    """Compare the broker's topics with how they should be, problems first.

    Args:
        broker: ``host:port``, several with commas between.
        plans: How the topics should be.
        keep: Seconds that inputs must be kept: the longest window and grace of any model.
        timeout: Seconds to wait for the broker.
        security: How to reach a secured broker, in kafka-python's words.

    Raises:
        ConfigError: The broker cannot be reached.
    """
    with connected(broker, timeout, security) as admin:
        names = [each.name for each in plans]
        found: dict[str, Found] = {}
        for topic in admin.describe_topics(names):
            error = for_code(topic["error_code"])
            if error is UnknownTopicOrPartitionError:
                continue
            if topic["error_code"]:
                raise ConfigError(f"{topic['name']} cannot be read at {broker}: {_why(error())}")
            parts = topic["partitions"]
            found[topic["name"]] = Found(
                partitions=len(parts), replicas=min(len(each["replica_nodes"]) for each in parts)
            )
        settings = _settings(admin, [ConfigResource(ConfigResourceType.TOPIC, name) for name in found])
        found = {
            name: Found(partitions=each.partitions, replicas=each.replicas, config=settings.get(name, {}))
            for name, each in found.items()
        }
        nodes = [str(each["broker_id"]) for each in admin.describe_cluster()["brokers"]]
        brokers = _settings(admin, [ConfigResource(ConfigResourceType.BROKER, node) for node in nodes])
    return examine(plans, found, next(iter(brokers.values()), {}), keep=keep)


def examine(
    plans: Sequence[TopicPlan], found: Mapping[str, Found], broker: Mapping[str, str], *, keep: float = 0.0
) -> list[Finding]:
    """Return what is wrong with topics as they were *found* and with the *broker*'s settings, problems first."""
    findings = [finding for each in plans for finding in _examine_topic(each, found.get(each.name), keep)]
    findings.extend(_examine_broker(found, broker))
    return sorted(findings, key=lambda finding: finding.severity != "problem")


def _examine_topic(plan: TopicPlan, found: Found | None, keep: float) -> Iterator[Finding]:
    name = plan.name
    if found is None:
        yield _problem(f"{name} does not exist", "streamapp topics --create")
        return
    if found.partitions != plan.partitions:
        yield _problem(
            f"{name} has {found.partitions} partitions, expected {plan.partitions}",
            "set STREAMAPP_PARTITIONS and STREAMAPP_SCORED_PARTITIONS to what exists, or use another"
            " STREAMAPP_TOPIC_PREFIX; a partition count never changes",
        )
    for key in (TIMESTAMP, CLEANUP):
        expected = plan.config.get(key)
        if expected is not None and key in found.config and found.config[key] != expected:
            yield _problem(f"{name} has {key}={found.config[key]}, expected {expected}", _alter(name, key, expected))
    kept = float(found.config.get(RETENTION, "-1"))
    if plan.config.get(TIMESTAMP) and 0 <= kept <= keep * 1000:
        yield _problem(
            f"{name} keeps records for {kept / 1000:.0f} s, but a prediction may wait {keep:.0f} s for its outcome",
            _alter(name, RETENTION, plan.config[RETENTION]),
        )
    if plan.config.get(TIMESTAMP) and float(found.config.get(RETENTION_BYTES, "-1")) >= 0:
        yield _advice(
            f"{name} is also cut by size ({RETENTION_BYTES}={found.config[RETENTION_BYTES]}): pending predictions may"
            " be lost in a busy hour",
            _alter(name, RETENTION_BYTES, "-1"),
        )
    size = plan.config.get(MAX_MESSAGE)
    if size is not None and int(found.config.get(MAX_MESSAGE, size)) < 1_000_000:
        yield _problem(f"{name} refuses messages of 1 MB", _alter(name, MAX_MESSAGE, size))
    if found.config.get(UNCLEAN) == "true":
        yield _advice(f"{name} may lose what was acknowledged ({UNCLEAN}=true)", _alter(name, UNCLEAN, "false"))


def _examine_broker(found: Mapping[str, Found], broker: Mapping[str, str]) -> Iterator[Finding]:
    few = sorted(name for name, each in found.items() if each.replicas < 3)
    if few:
        yield _advice(
            f"{_list(few)} have fewer than 3 replicas",
            "in production: streamapp topics --create --replication 3, before there are data",
        )
    weak = sorted(name for name, each in found.items() if int(each.config.get(IN_SYNC, "2")) < 2)
    if weak:
        yield _advice(f"{_list(weak)} have {IN_SYNC} below 2", f"in production: set {IN_SYNC}=2 on them")
    if found and not any(each.config for each in found.values()):
        yield _advice(
            "the broker does not tell how its topics are set: timestamps, compaction and retention were not checked",
            "allow this user to describe the configuration of topics",
        )
    sweep = broker.get(ABORT_SWEEP)
    if sweep is not None and int(sweep) > 1000:
        yield _advice(
            f"the broker sweeps abandoned transactions every {int(sweep) / 1000:.0f} s: after a worker's crash, readers"
            " wait that long",
            f"{ABORT_SWEEP}=1000 on the brokers",
        )


@contextmanager
def connected(broker: str, timeout: float, security: Mapping[str, Any]) -> Iterator[Any]:
    """Lend an admin client of kafka-python.

    Raises:
        NoBroker: No broker answers, or it refuses.
    """
    _await_listener(broker, timeout)
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=broker.split(","),
            bootstrap_timeout_ms=int(timeout * 1000),
            request_timeout_ms=int(timeout * 1000),
            client_id="streamapp-topics",
            **security,
        )
    except KafkaError as error:
        raise NoBroker(f"no Kafka broker answers at {broker}: {_why(error)}") from error
    try:
        yield admin
    except KafkaError as error:
        raise NoBroker(f"the broker at {broker} refused: {_why(error)}") from error
    finally:
        admin.close()


def _await_listener(broker: str, timeout: float) -> None:
    end = time.monotonic() + timeout
    while (reason := unreachable(broker, timeout)) is not None:
        if time.monotonic() > end:
            raise NoBroker(f"no Kafka broker answers at {broker}: {reason}")
        time.sleep(0.2)


def _settings(admin: Any, resources: Sequence[ConfigResource]) -> dict[str, dict[str, str]]:
    if not resources:
        return {}
    kinds = admin.describe_configs(resources, config_filter="all")
    return {
        name: {key: each["value"] for key, each in entries.items() if each["value"] is not None}
        for kind in kinds.values()
        for name, entries in kind.items()
        if entries
    }


def _why(error: KafkaError) -> str:
    """Return an error's own words, without the request that it repeats."""
    return str(error).partition(": Request '")[0] or type(error).__name__


def _alter(topic: str, key: str, value: str) -> str:
    return f"kafka-configs.sh --alter --topic {topic} --add-config {key}={value}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more topics"


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _problem(text: str, remedy: str) -> Finding:
    return Finding(severity="problem", text=text, remedy=remedy)


def _advice(text: str, remedy: str) -> Finding:
    return Finding(severity="advice", text=text, remedy=remedy)
