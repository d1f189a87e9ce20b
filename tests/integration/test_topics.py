"""Topics on a real Apache Kafka and on the embedded broker."""

import pytest

from streamapp.address import free_port
from streamapp.embedded import EmbeddedBroker
from streamapp.errors import ConfigError
from streamapp.stream.topics import DAY, Found, TopicPlan, Topics, check, create, examine, plan


def test_names_follow_from_the_prefix():
    topics = Topics("acme-")
    assert topics.predictions == "acme-predictions"
    assert topics.model_updates == "acme-model-updates" == topics.full("model-updates")
    assert topics.checkpoints("joiner") == "acme-checkpoints-joiner"


def test_tasks_of_one_role_find_as_many_partitions_in_each_of_their_topics():
    topics = Topics()
    partitions = {each.name: each.partitions for each in plan(topics, partitions=6, scored_partitions=3)}
    assert (
        partitions[topics.predictions] == partitions[topics.outcomes] == partitions[topics.checkpoints("joiner")] == 6
    )
    assert partitions[topics.scored] == partitions[topics.checkpoints("monitor")] == 3
    assert partitions[topics.retrain] == partitions[topics.checkpoints("learner")] == 3


@pytest.mark.integration
def test_created_topics_pass_their_check(kafka, prefix):
    plans = plan(Topics(prefix), partitions=3, scored_partitions=2)
    assert create(kafka.bootstrap, plans) == [each.name for each in plans]
    findings = check(kafka.bootstrap, plans, keep=DAY)
    assert [finding.text for finding in findings if finding.severity == "problem"] == []


@pytest.mark.integration
def test_creating_twice_makes_only_what_is_missing(kafka, prefix):
    plans = plan(Topics(prefix), partitions=2, scored_partitions=1)
    create(kafka.bootstrap, plans[:3])
    assert create(kafka.bootstrap, plans) == [each.name for each in plans[3:]]
    assert create(kafka.bootstrap, plans) == []


@pytest.mark.integration
def test_missing_topics_are_problems_that_name_the_command(kafka, prefix):
    plans = plan(Topics(prefix))
    findings = check(kafka.bootstrap, plans)
    problems = [finding for finding in findings if finding.severity == "problem"]
    assert [finding.text for finding in problems] == [f"{each.name} does not exist" for each in plans]
    assert {finding.remedy for finding in problems} == {"streamapp topics --create"}


@pytest.mark.integration
def test_topics_made_by_others_are_examined(kafka, prefix):
    topics = Topics(prefix)
    right = plan(topics, partitions=2, scored_partitions=1)
    wrong = [TopicPlan(name=each.name, partitions=each.partitions + 1) for each in right]
    create(kafka.bootstrap, wrong)
    problems = [finding.text for finding in check(kafka.bootstrap, right) if finding.severity == "problem"]
    assert f"{topics.predictions} has 3 partitions, expected 2" in problems
    assert f"{topics.outcomes} has message.timestamp.type=CreateTime, expected LogAppendTime" in problems
    assert f"{topics.checkpoints('monitor')} has cleanup.policy=delete, expected compact" in problems


@pytest.mark.integration
def test_a_refused_topic_is_named_with_the_reason(kafka):
    with pytest.raises(ConfigError, match="not a name could not be made at"):
        create(kafka.bootstrap, [TopicPlan(name="not a name", partitions=1)])


def test_a_broker_that_does_not_answer_is_named():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"no Kafka broker answers at {address}"):
        check(address, plan(Topics()), timeout=0.3)


def test_an_address_without_a_port_is_refused():
    with pytest.raises(ConfigError, match="host:port, got 'localhost'"):
        create("localhost", plan(Topics()))


@pytest.mark.embedded
def test_the_embedded_broker_takes_the_plan_too(embedded: EmbeddedBroker, prefix: str):
    plans = plan(Topics(prefix))
    assert len(create(embedded.bootstrap, plans)) == len(plans)
    assert create(embedded.bootstrap, plans) == []
    assert [finding.severity for finding in check(embedded.bootstrap, plans, keep=DAY)] == ["advice"]


def test_a_broker_that_tells_no_settings_is_not_taken_to_be_right():
    (predictions, *_) = plan(Topics())
    (finding,) = examine([predictions], {predictions.name: Found(partitions=8, replicas=3)}, {})
    assert "were not checked" in finding.text


SAFE = {
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": str(8 * 86_400_000),
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
}


@pytest.mark.parametrize(
    ("config", "keep", "severity", "words"),
    [
        ({"retention.ms": "3600000"}, 3600.0, "problem", "keeps records for 3600 s"),
        ({"retention.ms": "3600001"}, 3600.0, None, ""),
        ({"retention.ms": "-1"}, 1e9, None, ""),
        ({"retention.bytes": "1000"}, 0.0, "advice", "cut by size"),
        ({"unclean.leader.election.enable": "true"}, 0.0, "advice", "may lose what was acknowledged"),
        ({"min.insync.replicas": "1"}, 0.0, "advice", "min.insync.replicas below 2"),
    ],
)
def test_settings_that_lose_data_are_found(config, keep, severity, words):
    (predictions, *_) = plan(Topics())
    found = {predictions.name: Found(partitions=8, replicas=3, config={**SAFE, **config})}
    findings = examine([predictions], found, {}, keep=keep)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    assert all(words in finding.text for finding in findings)


def test_a_slow_sweep_of_abandoned_transactions_is_advice():
    key = "transaction.abort.timed.out.transaction.cleanup.interval.ms"
    assert examine([], {}, {key: "1000"}) == []
    (finding,) = examine([], {}, {key: "10000"})
    assert finding.severity == "advice"
    assert finding.remedy == f"{key}=1000 on the brokers"
