"""EventPublisher against real brokers, and against none."""

import multiprocessing
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from streamapp.address import free_port
from streamapp.client import Client, EventPublisher
from streamapp.core.events import Outcome, Prediction
from streamapp.embedded import EmbeddedBroker, available, unavailable
from streamapp.errors import ConfigError
from streamapp.stream.topics import TopicPlan, Topics, create
from tests.conftest import leave_out
from tests.integration.secured import PASSWORD, USER, SecuredKafka
from tests.kafka import Unavailable

PARTITIONS = 3
CLIENTS = ("kafka-python", "confluent-kafka")


@pytest.fixture(params=CLIENTS)
def client(request) -> Client:
    """Both promise the same."""
    return request.param


@pytest.fixture
def topics(kafka, prefix) -> Topics:
    return inputs(kafka.bootstrap, prefix)


def inputs(bootstrap: str, prefix: str) -> Topics:
    topics = Topics(prefix)
    create(bootstrap, [TopicPlan(name=name, partitions=PARTITIONS) for name in (topics.predictions, topics.outcomes)])
    return topics


def read(bootstrap: str, topic: str, count: int):
    """Return so many records of a topic and what follows them, or those that came within half a minute."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    try:
        consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
        records = []
        end = time.monotonic() + 30
        while len(records) < count and time.monotonic() < end:
            records += [record for each in consumer.poll(1000).values() for record in each]
        records += [record for each in consumer.poll(200).values() for record in each]
        return records
    finally:
        consumer.close()


def numbers(bootstrap: str, topic: str, count: int) -> list[int]:
    return sorted(int(record.key) for record in read(bootstrap, topic, count))


def predict(number: int, **fields: object) -> dict[str, object]:
    return {"prediction_id": str(number), "model": "fraud", "ts": 1e9 + number, "prediction": True, **fields}


class Errors(list):
    """Collects what is reported."""

    def __call__(self, error: Exception, value: bytes) -> None:
        self.append((error, value))


# With a broker


@pytest.mark.integration
def test_events_arrive_under_their_id_in_the_partition_that_java_would_choose(kafka, topics, client):
    with EventPublisher(kafka.bootstrap, prefix=topics.prefix, client=client) as publisher:
        for number in range(200):
            assert publisher.publish(predict(number))
    assert (publisher.published, publisher.delivered, publisher.failed) == (200, 200, 0)
    records = read(kafka.bootstrap, topics.predictions, 200)
    assert sorted(int(record.key) for record in records) == list(range(200))
    assert all(record.partition == (murmur2(record.key) & 0x7FFFFFFF) % PARTITIONS for record in records)
    assert all(msgspec.json.decode(record.value)["prediction_id"].encode() == record.key for record in records)


@pytest.mark.integration
def test_structs_mappings_and_keyword_arguments_say_the_same(kafka, topics, client):
    with EventPublisher(kafka.bootstrap, prefix=topics.prefix, client=client) as publisher:
        publisher.publish(Prediction("a", "fraud", 5.0, scores=0.25, features=msgspec.Raw(b'{"x":1}')))
        publisher.publish({"prediction_id": "b", "model": "fraud", "ts": 5.0, "scores": 0.25, "features": {"x": 1}})
        publisher.prediction(prediction_id="c", model="fraud", ts=5.0, scores=0.25, features={"x": 1})
        publisher.publish(Outcome("a", 6.0, outcome=True))
        publisher.publish({"prediction_id": "b", "ts": 6.0, "outcome": True})
        publisher.outcome(prediction_id="c", ts=6.0, outcome=True)
    for topic in (topics.predictions, topics.outcomes):
        events = [msgspec.json.decode(record.value) for record in read(kafka.bootstrap, topic, 3)]
        assert sorted(event.pop("prediction_id") for event in events) == ["a", "b", "c"]
        assert events[0] == events[1] == events[2]


@pytest.mark.integration
def test_nothing_is_lost_or_doubled_when_the_broker_is_killed(own_kafka, prefix, client):
    topics = inputs(own_kafka.bootstrap, prefix)
    publisher = EventPublisher(own_kafka.bootstrap, prefix=prefix, client=client)
    for number in range(1000):
        publisher.publish(predict(number))
    publisher.flush(10)
    own_kafka.kill()
    for number in range(1000, 2000):
        assert publisher.publish(predict(number))
    own_kafka.start()
    assert publisher.flush(60)
    assert publisher.close()
    assert numbers(own_kafka.bootstrap, topics.predictions, 2000) == list(range(2000))


@pytest.mark.integration
def test_a_publisher_that_began_before_its_topics_delivers_once_they_exist(kafka, prefix, client):
    publisher = EventPublisher(kafka.bootstrap, prefix=prefix, client=client)
    assert publisher.publish(predict(1))
    topics = inputs(kafka.bootstrap, prefix)
    assert publisher.flush(30)
    assert publisher.close()
    assert numbers(kafka.bootstrap, topics.predictions, 1) == [1]


PUBLISHES_AND_ENDS = """
import sys
from streamapp.client import EventPublisher
publisher = EventPublisher(sys.argv[1], prefix=sys.argv[2], client=sys.argv[3])
for number in range(500):
    publisher.prediction(prediction_id=str(number), model="fraud", prediction=True)
"""


@pytest.mark.integration
def test_a_process_that_simply_ends_has_delivered_first(kafka, topics, client):
    arguments = [kafka.bootstrap, topics.prefix, client]
    subprocess.run([sys.executable, "-c", PUBLISHES_AND_ENDS, *arguments], check=True, timeout=60)
    assert numbers(kafka.bootstrap, topics.predictions, 500) == list(range(500))


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_publishes_its_own_events(kafka, topics, client):
    """Servers that load the application before they fork share one publisher object."""
    publisher = EventPublisher(kafka.bootstrap, prefix=topics.prefix, client=client)
    publisher.publish(predict(1))
    publisher.flush(10)

    def work() -> None:
        publisher.publish(predict(2))
        raise SystemExit(0 if publisher.close(10) and publisher.delivered == 1 else 1)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    publisher.publish(predict(3))
    assert publisher.close()
    assert publisher.delivered == 2
    assert numbers(kafka.bootstrap, topics.predictions, 3) == [1, 2, 3]


@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_of_multiprocessing_that_simply_returns_has_delivered_first(embedded, prefix, client):
    topics = inputs(embedded.bootstrap, prefix)
    publisher = EventPublisher(embedded.bootstrap, prefix=prefix, client=client)
    publisher.publish(predict(1))
    publisher.flush(10)
    child = multiprocessing.get_context("fork").Process(target=publisher.publish, args=(predict(2),))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert publisher.close()
    assert numbers(embedded.bootstrap, topics.predictions, 2) == [1, 2]


FORKS_AND_ENDS = """
import os, sys
from streamapp.client import EventPublisher
publisher = EventPublisher(sys.argv[1], prefix=sys.argv[2], client=sys.argv[3])
publisher.prediction(prediction_id="1", model="fraud", prediction=True)
publisher.flush()
child = os.fork()
publisher.prediction(prediction_id="2" if child else "3", model="fraud", prediction=True)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.integration
def test_a_forked_child_that_ends_as_programs_do_is_not_held_up_by_what_its_parent_had_open(kafka, topics, client):
    arguments = [kafka.bootstrap, topics.prefix, client]
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS_AND_ENDS, *arguments], check=True, timeout=60)
    assert numbers(kafka.bootstrap, topics.predictions, 3) == [1, 2, 3]


@pytest.mark.integration
def test_an_event_that_the_broker_refuses_fails_with_its_bytes_and_the_others_arrive(kafka, prefix, client):
    topic = Topics(prefix).predictions
    create(kafka.bootstrap, [TopicPlan(name=topic, partitions=PARTITIONS, config={"max.message.bytes": "2000"})])
    errors = Errors()
    publisher = EventPublisher(kafka.bootstrap, prefix=prefix, on_error=errors, client=client)
    assert publisher.publish(predict(1, tags={"big": "x" * 5000}))
    assert publisher.flush(30)
    assert publisher.publish(predict(2))
    assert not publisher.close()
    assert (publisher.delivered, publisher.failed) == (1, 1)
    ((_, value),) = errors
    assert msgspec.json.decode(value)["prediction_id"] == "1"
    assert numbers(kafka.bootstrap, topic, 1) == [2]


@pytest.fixture(scope="module")
def secured(tmp_path_factory) -> Iterator[SecuredKafka]:
    try:
        broker = SecuredKafka(tmp_path_factory.mktemp("secured"))
        broker.start()
    except Unavailable as error:
        leave_out(f"no secured Apache Kafka: {error}")
    yield broker
    broker.stop()


@pytest.mark.integration
def test_a_broker_that_asks_for_a_password_over_tls_is_reached_with_the_same_arguments(secured, prefix, client):
    topics = inputs(secured.bootstrap, prefix)
    security = {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(secured.certificate),
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": USER,
        "sasl_plain_password": PASSWORD,
    }
    with EventPublisher(secured.secured, prefix=prefix, client=client, **security) as publisher:
        publisher.publish(predict(1))
    assert publisher.delivered == 1
    assert numbers(secured.bootstrap, topics.predictions, 1) == [1]


@pytest.mark.integration
def test_a_broker_whose_certificate_nobody_vouches_for_gets_nothing(secured, prefix):
    """Of confluent-kafka alone, whose words for this are ours; kafka-python forgets to close refused connections."""
    topics = inputs(secured.bootstrap, prefix)
    security = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}
    login = {"sasl_plain_username": USER, "sasl_plain_password": PASSWORD}
    publisher = EventPublisher(secured.secured, prefix=prefix, client="confluent-kafka", **security, **login)
    publisher.publish(predict(1))
    assert not publisher.close(3)
    assert numbers(secured.bootstrap, topics.predictions, 0) == []


@pytest.mark.embedded
def test_the_embedded_broker_takes_events_too(embedded, prefix, client):
    topics = inputs(embedded.bootstrap, prefix)
    with EventPublisher(embedded.bootstrap, prefix=prefix, client=client) as publisher:
        for number in range(2000):
            publisher.publish(predict(number))
    assert publisher.delivered == 2000
    assert numbers(embedded.bootstrap, topics.predictions, 2000) == list(range(2000))


@pytest.fixture
def own_embedded() -> Iterator[EmbeddedBroker]:
    """An embedded broker for one test, which may stop it in its tracks."""
    if not available():
        leave_out(f"no embedded broker: {unavailable()}")
    with EmbeddedBroker() as broker:
        yield broker
        os.kill(broker.pid, signal.SIGCONT)


@pytest.mark.embedded
def test_closing_while_the_broker_hangs_fails_what_is_on_its_way_and_leaves_no_thread(own_embedded, prefix, client):
    inputs(own_embedded.bootstrap, prefix)
    errors = Errors()
    before = set(threading.enumerate())
    publisher = EventPublisher(own_embedded.bootstrap, prefix=prefix, on_error=errors, client=client)
    publisher.publish(predict(0))
    assert publisher.flush(30)
    os.kill(own_embedded.pid, signal.SIGSTOP)
    for number in range(1, 6):
        assert publisher.publish(predict(number))
    assert not publisher.close(0.5)
    assert (publisher.published, publisher.delivered, publisher.failed) == (6, 1, 5)
    assert sorted(msgspec.json.decode(value)["prediction_id"] for _, value in errors) == list("12345")
    assert {type(error) for error, _ in errors} == {TimeoutError}
    assert set(threading.enumerate()) <= before


# Without one


@pytest.fixture
def nobody() -> str:
    return f"127.0.0.1:{free_port()}"


def test_a_full_queue_drops_and_reports_what_does_not_fit(nobody, client):
    errors = Errors()
    publisher = EventPublisher(nobody, queue_size=10, on_error=errors, client=client)
    assert [publisher.publish(predict(number)) for number in range(12)] == [True] * 10 + [False] * 2
    assert (publisher.published, publisher.dropped, len(errors)) == (10, 2, 2)
    assert not publisher.close(0.1)


def test_closing_without_a_broker_fails_what_waits_and_gives_it_back(nobody, client):
    errors = Errors()
    publisher = EventPublisher(nobody, on_error=errors, client=client)
    publisher.publish(predict(1))
    assert not publisher.close(0.1)
    assert (publisher.published, publisher.delivered, publisher.failed) == (1, 0, 1)
    ((error, value),) = errors
    assert isinstance(error, TimeoutError)
    assert msgspec.json.decode(value)["prediction_id"] == "1"
    assert not publisher.publish(predict(2))
    assert publisher.dropped == 1


def test_an_event_fails_when_nobody_takes_it_in_time(nobody, client):
    errors = Errors()
    publisher = EventPublisher(nobody, on_error=errors, delivery_timeout=0.2, client=client)
    publisher.publish(predict(1))
    assert publisher.flush(30)
    assert publisher.failed == len(errors) == 1
    publisher.close(0.1)


@pytest.fixture
def no_threads(monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """Threads cannot be started, until it is undone."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield patch


def test_an_event_waits_while_no_thread_can_be_started_and_the_next_one_tries_again(nobody, no_threads, client):
    publisher = EventPublisher(nobody, delivery_timeout=0.2, client=client)
    assert publisher.publish(predict(1))
    no_threads.undo()
    assert publisher.publish(predict(2))
    assert publisher.flush(30)
    assert (publisher.published, publisher.failed) == (2, 2)
    publisher.close(0.1)


def test_closing_fails_at_once_what_no_thread_could_be_started_for(nobody, no_threads, client):
    errors = Errors()
    publisher = EventPublisher(nobody, on_error=errors, client=client)
    assert publisher.publish(predict(1))
    begun = time.monotonic()
    assert not publisher.close(60)
    assert time.monotonic() - begun < 30
    assert (publisher.published, publisher.failed, len(errors)) == (1, 1, 1)


CLOSES_IN_A_HANDLER = """
import os, signal, sys
from streamapp.client import EventPublisher

publisher = EventPublisher(sys.argv[1], delivery_timeout=0.1)
signal.signal(signal.SIGTERM, lambda *_: publisher.close(60))

def publish(number):
    publisher.prediction(prediction_id=str(number), model="fraud", prediction=True)

def interrupt(frame, event, called):
    if sys.argv[2:] == [event, frame.f_code.co_name if event == "call" else getattr(called, "__name__", "")]:
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)

if sys.argv[3] == "put":
    publish(1)
    publisher.flush()
sys.setprofile(interrupt)
publish(2)
print(publisher.published - publisher.failed, publisher._closed)
"""


@pytest.mark.parametrize("moment", [("call", "start"), ("c_call", "put"), ("c_return", "put")])
def test_a_signal_that_interrupts_publishing_may_close(nobody, moment):
    arguments = [sys.executable, "-c", CLOSES_IN_A_HANDLER, nobody, *moment]
    done = subprocess.run(arguments, check=True, timeout=30, capture_output=True)
    assert done.stdout.split() == [b"0", b"True"]


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"prediction_id": "a"},
        {"prediction_id": "a", "model": "fraud"},
        {"prediction_id": 7, "model": "fraud", "ts": 1.0, "prediction": True},
        {"prediction_id": "a", "model": "fraud", "ts": 1_700_000_000_000, "prediction": True},
        {"prediction_id": "a", "model": "fraud", "ts": datetime(2026, 1, 1), "prediction": True},
        {"prediction_id": "a", "model": "fraud", "ts": float("nan"), "prediction": True},
        {"prediction_id": "a", "model": "fraud", "ts": 1.0, "prediction": True, "scores": float("nan")},
        {"prediction_id": "a", "model": "fraud", "ts": 1.0, "prediction": float("inf")},
        {"prediction_id": "a", "model": "fraud", "ts": 1.0, "scores": 1.5},
        {"prediction_id": "a", "model": "fraud", "ts": 1.0, "prediction": True, "features": {"x": object()}},
        {"prediction_id": "a", "ts": 1.0, "outcome": float("nan")},
        {"prediction_id": "a", "model": "fraud", "ts": 1.0, "prediction": True, "tags": {"big": "x" * 1_100_000}},
        Prediction("a", "fraud", 1.0, scores=-0.5),
        Outcome("a", float("inf"), outcome=True),
        None,
        "text",
    ],
)
def test_what_is_not_an_event_is_reported_and_never_raises(nobody, event):
    errors = Errors()
    publisher = EventPublisher(nobody, on_error=errors)
    assert not publisher.publish(event)
    assert (publisher.rejected, publisher.published, len(errors)) == (1, 0, 1)
    assert publisher.close(0.1)


@pytest.mark.parametrize(
    "event",
    [
        {"prediction_id": "a", "model": "fraud", "ts": datetime(2026, 1, 1, tzinfo=UTC), "prediction": True},
        {"prediction_id": "a", "model": "fraud", "ts": "2026-01-01T00:00:00Z", "prediction": "cat"},
        {"prediction_id": "a", "model": "fraud", "ts": np.float64(1.0), "prediction": np.bool_(True)},
        {"prediction_id": "a", "model": "m", "ts": 1, "scores": np.float32(0.5), "features": {"n": np.int64(3)}},
        {"prediction_id": "ключ", "model": "fraud", "ts": 1.0, "prediction": 1.5, "of_ours": [1, 2]},
        {"prediction_id": "a", "ts": 1.0, "status": "never"},
        {"prediction_id": "a", "ts": 1.0, "loss": 0.5},
    ],
)
def test_what_services_have_at_hand_is_an_event(nobody, event):
    errors = Errors()
    publisher = EventPublisher(nobody, on_error=errors)
    assert publisher.publish(event), errors
    publisher.close(0.0)


def test_an_error_in_on_error_stays_in_it(nobody):
    def fail(error: Exception, value: bytes) -> None:
        raise RuntimeError("of the caller")

    publisher = EventPublisher(nobody, on_error=fail)
    assert not publisher.publish({})
    publisher.close(0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"broker": "localhost"},
        {"typo": 1},
        {"queue_size": 0},
        {"delivery_timeout": 0.0},
        {"compression": "lz4", "client": "kafka-python"},
        {"typo": 1, "client": "confluent-kafka"},
        {"ssl_context": object(), "client": "confluent-kafka"},
        {"security_protocol": "CARRIER_PIGEON", "client": "confluent-kafka"},
        {"security_protocol": "SSL", "ssl_cafile": "/nowhere", "client": "confluent-kafka"},
    ],
)
def test_arguments_that_cannot_be_right_are_refused_at_once(arguments):
    with pytest.raises(ConfigError):
        EventPublisher(**{"broker": "localhost:9092", **arguments})


def test_confluent_kafka_is_used_where_it_is_installed_and_knows_all_that_is_asked_of_it(nobody):
    assert EventPublisher(nobody).client == "confluent-kafka"
    assert EventPublisher(nobody, client_id="shop", ssl_check_hostname=False).client == "confluent-kafka"
    assert EventPublisher(nobody, ssl_context=ssl.create_default_context()).client == "kafka-python"
    assert EventPublisher(nobody, client="kafka-python").client == "kafka-python"


WITHOUT_THE_EXTRA = """
import sys
sys.modules["confluent_kafka"] = None
from streamapp.client import EventPublisher
from streamapp.errors import ConfigError
assert EventPublisher("localhost:9092").client == "kafka-python"
try:
    EventPublisher("localhost:9092", client="confluent-kafka")
except ConfigError as error:
    print(error)
"""


def test_without_the_extra_kafka_python_does_it_and_asking_for_the_other_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_EXTRA], check=True, timeout=60, capture_output=True)
    assert b"streamapp[confluent-kafka]" in done.stdout
