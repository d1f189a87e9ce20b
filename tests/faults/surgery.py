"""What operators, retention and broken disks do to topics."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from streamapp.stream.topics import Topics
from tests.faults.logs import Log, newest
from tests.integration.workers import Deployment, until


class Surgery:
    """Changes to the topics of one deployment, from behind the workers' backs."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._broker = deployment.broker
        self._topics: Topics = deployment.topics

    # -- checkpoints

    def entries(self, role: str, partition: int) -> dict[bytes, bytes]:
        """Return what a task has stored."""
        name = f"checkpoints-{role}"
        log = Log(self._broker, self._topics, name).whole()
        log.close()
        return newest(log.records[name, partition])

    def store(self, role: str, partition: int, entries: Mapping[bytes, bytes | None]) -> None:
        """Write entries over those of a task; None removes one."""
        kafka = KafkaProducer(bootstrap_servers=self._broker)
        for key, value in entries.items():
            kafka.send(self._topics.checkpoints(role), partition=partition, key=key, value=value)
        kafka.flush()
        kafka.close()

    # -- logs

    def truncate(self, name: str, before: Mapping[int, int]) -> None:
        """Remove, by partition, what lies before an offset; -1: everything."""
        topic = self._topics.full(name)
        with self._admin() as admin:
            admin.delete_records({TopicPartition(topic, number): offset for number, offset in before.items()})

    def ends(self, name: str) -> dict[int, int]:
        """Return, by partition, how far readers of what is committed get."""
        return self._ends(name, "read_committed")

    def held_back(self, name: str) -> dict[int, int]:
        """Return, by partition, where a topic ends, if an open transaction keeps readers from getting there."""
        ends, readable = (self._ends(name, level) for level in ("read_uncommitted", "read_committed"))
        return {partition: end for partition, end in ends.items() if readable[partition] < end}

    def readable(self, name: str, upto: Mapping[int, int]) -> bool:
        """Return whether readers of what is committed get as far as ``upto``, by partition."""
        ends = self.ends(name)
        return all(ends[partition] >= end for partition, end in upto.items())

    def _ends(self, name: str, level: str) -> dict[int, int]:
        consumer = KafkaConsumer(bootstrap_servers=self._broker, isolation_level=level, enable_auto_commit=False)
        topic = self._topics.full(name)
        try:
            ends = consumer.end_offsets([TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)])
        finally:
            consumer.close()
        return {tp.partition: end for tp, end in ends.items()}

    def in_sync(self, copies: int) -> bool:
        """Return whether each partition of every topic, also of Kafka's own, has all its copies."""
        with self._admin() as admin:
            topics = admin.describe_topics()
        return all(len(partition["isr_nodes"]) >= copies for topic in topics for partition in topic["partitions"])

    def delete(self, names: Iterable[str]) -> None:
        """Delete topics, and wait until they are gone."""
        topics = [self._topics.full(name) for name in names]
        with self._admin() as admin:
            admin.delete_topics(topics)
            until(lambda: not set(topics) & set(admin.list_topics()), f"deleted: {topics}")

    def make(self) -> None:
        """Make the topics that are missing, as ``streamapp topics --create`` does."""
        self._deployment.create_topics()

    def widen(self, name: str, partitions: int) -> None:
        """Give a topic more partitions."""
        with self._admin() as admin:
            admin.create_partitions({self._topics.full(name): partitions})

    # -- groups

    def clear(self) -> None:
        """Remove everything of the deployment, as far as the broker lets us."""
        with contextlib.suppress(KafkaError), self._admin() as admin:
            ours = [topic for topic in admin.list_topics() if topic.startswith(self._topics.prefix)]
            admin.delete_topics(ours)

    @contextlib.contextmanager
    def _admin(self) -> Iterator[KafkaAdminClient]:
        admin = KafkaAdminClient(bootstrap_servers=self._broker, request_timeout_ms=20_000)
        try:
            yield admin
        finally:
            admin.close()
