"""The embedded broker, and the watcher that every child process of ours has."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from streamapp.address import answers, free_port
from streamapp.child import Child
from streamapp.embedded import EmbeddedBroker, available, unavailable
from streamapp.stream.topics import TopicPlan, create


def ended(pid: int, seconds: float = 10.0) -> bool:
    """Wait until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def test_availability_has_a_reason_where_it_is_missing():
    assert available() == (unavailable() is None)


@pytest.mark.embedded
def test_it_answers_once_started_and_no_more_once_stopped(embedded):
    broker = EmbeddedBroker()
    host, port = broker.bootstrap.split(":")
    with broker:
        assert answers(host, int(port))
        assert broker.alive()
    assert not answers(host, int(port))
    assert not broker.alive()


@pytest.mark.embedded
def test_what_was_published_is_read_back_in_order_of_its_partition(embedded, prefix):
    topic = f"{prefix}in"
    create(embedded.bootstrap, [TopicPlan(name=topic, partitions=2)])
    producer = KafkaProducer(bootstrap_servers=embedded.bootstrap)
    for n in range(1000):
        producer.send(topic, partition=n % 2, value=b"%d" % n)
    producer.flush(10)
    producer.close(5)
    consumer = KafkaConsumer(bootstrap_servers=embedded.bootstrap, group_id=None, auto_offset_reset="earliest")
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    consumer.assign(partitions)
    read: dict[int, list[int]] = {0: [], 1: []}
    while sum(map(len, read.values())) < 1000:
        for partition, records in consumer.poll(2000).items():
            read[partition.partition].extend(int(record.value) for record in records)
    consumer.close()
    assert read == {0: list(range(0, 1000, 2)), 1: list(range(1, 1000, 2))}


STARTS_A_BROKER_AND_DIES = """
import os, signal
from streamapp.embedded import EmbeddedBroker
broker = EmbeddedBroker()
broker.start()
print(broker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.embedded
@pytest.mark.skipif(sys.platform != "linux", reason="watches a process that is not its child through /proc")
def test_it_ends_when_its_parent_is_killed(embedded):
    done = subprocess.run([sys.executable, "-c", STARTS_A_BROKER_AND_DIES], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    assert ended(int(done.stdout))


def test_a_child_gives_its_exit_code_and_its_words(tmp_path: Path):
    child = Child([sys.executable, "-c", "print('hello'); raise SystemExit(3)"], log=tmp_path / "log")
    assert child.wait(10) == 3
    assert child.tail() == "hello"


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path):
    stubborn = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    child = Child([sys.executable, "-c", stubborn], log=tmp_path / "log", grace=0.1)
    while child.tail() != "up":
        assert child.poll() is None
    assert child.stop() == 128 + signal.SIGKILL


def test_a_child_that_handles_sigterm_ends_as_it_likes(tmp_path: Path):
    polite = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(7)); print('up', flush=True); signal.pause()"
    child = Child([sys.executable, "-c", polite], log=tmp_path / "log")
    while child.tail() != "up":
        assert child.poll() is None
    assert child.stop() == 7
    assert child.poll() == 7


def test_a_child_that_cannot_start_says_so(tmp_path: Path):
    with pytest.raises(OSError, match="no-such-program did not start"):
        Child(["no-such-program"], log=tmp_path / "log")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does this on Linux")
def test_a_child_ends_when_its_watcher_is_killed(tmp_path: Path):
    child = Child([sys.executable, "-c", "import signal; signal.pause()"], log=tmp_path / "log")
    os.kill(child._watcher.pid, signal.SIGKILL)
    assert ended(child.pid)
    child.stop()


def test_free_ports_are_free():
    assert not answers("127.0.0.1", free_port())
