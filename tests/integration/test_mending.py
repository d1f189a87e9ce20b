"""Looking at dead letters and checkpoints on a real Kafka, and sending letters again."""

import json
from typing import Any

import pytest
from kafka import KafkaProducer

from streamapp.cli import main
from streamapp.core.events import DeadLetter
from streamapp.stream.dead_letters import WHOLE, dead_letter
from streamapp.stream.redrive import FROM
from tests.integration.workers import Deployment, until

pytestmark = pytest.mark.integration

SECRET = b"nobody's business"
NOW = 1_772_366_400.0


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code if isinstance(end.value.code, int) else 0


@pytest.fixture
def deployment(kafka, tmp_path, prefix, monkeypatch):
    found = Deployment(kafka.bootstrap, tmp_path, prefix)
    found.create_topics()
    for name, value in found.environ.items():
        monkeypatch.setenv(name, value)
    yield found
    found.close()


def put(deployment: Deployment, *letters: DeadLetter) -> None:
    kafka = KafkaProducer(bootstrap_servers=deployment.broker, max_request_size=1 << 22)
    for each in letters:
        record = dead_letter(deployment.topics, each)
        kafka.send(record.topic, key=record.key, value=record.value, headers=list(record.headers))
    kafka.flush()
    kafka.close()


def bad(offset: int, *, topic: str = "predictions", reason: str = "malformed", **fields: Any) -> DeadLetter:
    given = {"key": b"k%d" % offset, "value": SECRET + b" %d" % offset, "partition": 2, "error": "what is wrong"}
    return DeadLetter(topic=topic, offset=offset, reason=reason, **{**given, **fields})


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_letters_are_listed_without_their_messages(deployment, capsys):
    put(deployment, *(bad(n) for n in range(5)), bad(7, topic="outcomes", reason="future"))
    assert run("dead-letters", "list", "--limit", "2") == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 2
    assert f"{deployment.topics.outcomes}[2] 7 future: what is wrong" in said.out
    assert "6 letters: 5 malformed, 1 future" in said.err
    found = report(capsys, "dead-letters", "list", "--reason", "malformed")
    assert (found["total"], found["reasons"]) == (5, {"malformed": 5})
    assert [one["source_offset"] for one in found["letters"]] == [0, 1, 2, 3, 4]
    assert {one["redriven"] for one in found["letters"]} == {False}
    assert SECRET.decode() not in said.out + said.err + json.dumps(found)


def test_letters_are_sent_again_once_as_they_came(deployment, capsys):
    put(
        deployment,
        bad(0),
        bad(1, key=None),
        bad(2, topic="outcomes", reason="future"),
        bad(3, value=b"x" * (WHOLE + 1)),
        bad(4, value=None, reason="empty"),
        bad(5, topic="scored"),
    )
    planned = report(capsys, "dead-letters", "redrive", "--dry-run")
    assert planned["topics"] == {deployment.topics.predictions: 2, deployment.topics.outcomes: 1}
    assert sum(planned["refused"].values()) == 3
    assert deployment.read("predictions") == []
    assert run("dead-letters", "redrive", "--reason", "malformed") == 0
    assert f"2 sent to {deployment.topics.predictions}" in capsys.readouterr().out
    sent = {record.value: record for record in deployment.read("predictions")}
    assert {value: record.key for value, record in sent.items()} == {SECRET + b" 0": b"k0", SECRET + b" 1": None}
    assert sent[SECRET + b" 1"].partition == 2
    places = {dict(record.headers)[FROM].decode() for record in sent.values()}
    assert places == {f"{deployment.topics.dead_letters}/0/{offset}" for offset in (0, 1)}
    assert deployment.read("outcomes") == []
    done = report(capsys, "dead-letters", "redrive")
    assert (done["topics"], done["before"]) == ({deployment.topics.outcomes: 1}, 2)
    assert report(capsys, "dead-letters", "redrive")["topics"] == {}
    assert len(deployment.read("predictions")) == 2
    assert len(deployment.read("outcomes")) == 1
    listed = report(capsys, "dead-letters", "list")
    assert {one["source_offset"] for one in listed["letters"] if one["redriven"]} == {0, 1, 2}
    assert listed["total"] == 6


def test_more_letters_than_one_transaction_takes_are_all_sent(deployment, capsys):
    put(deployment, *(bad(n) for n in range(1203)))
    assert report(capsys, "dead-letters", "redrive")["topics"] == {deployment.topics.predictions: 1203}
    assert sorted(record.value for record in deployment.read("predictions")) == sorted(
        bad(n).value for n in range(1203)
    )


def test_what_a_worker_stored_can_be_inspected(deployment, capsys):
    found = report(capsys, "checkpoint", "inspect")["tasks"]
    assert {task["entries"] for task in found} == {0}
    assert [task["role"] for task in found].count("joiner") == 4
    worker = deployment.start()
    until(worker.ready, "ready")
    now = NOW
    answers = [
        {"prediction_id": f"p{n}", "model": "fraud", "ts": now, "group": f"g{n % 3}", "scores": 0.5} for n in range(300)
    ]
    truths = [{"prediction_id": f"p{n}", "ts": now, "outcome": True} for n in range(200)]
    events = [("predictions", each) for each in answers] + [("outcomes", each) for each in truths]
    deployment.publish([*events, ("predictions", SECRET)])
    until(lambda: deployment.resolved("fraud") == 200, "200 outcomes")
    until(lambda: deployment.read("dead-letters"), "the one that cannot be read")
    assert worker.stop() == 0
    tasks = report(capsys, "checkpoint", "inspect")["tasks"]
    joiners = [task for task in tasks if task["role"] == "joiner"]
    assert {task["problem"] for task in tasks} == {None}
    assert sum(task["pending"] for task in joiners) == 100
    assert sum(sum(task["models"]["fraud"]["pending"].values()) for task in joiners) == 100
    assert sum(task["inputs"][deployment.topics.predictions]["position"] for task in joiners) == 301
    assert sum(task["predictions"]["counts"].get("rejected", 0) for task in joiners) == 1
    (monitor,) = (task for task in tasks if task["role"] == "monitor" and task["models"])
    assert monitor["models"]["fraud"]["task"] == "binary"
    assert sum(group["outcomes"] for group in monitor["models"]["fraud"]["groups"].values()) == 200
    assert monitor["bytes"] >= monitor["largest"] > 0
    assert sum(kind["bytes"] for kind in monitor["kinds"].values()) == monitor["bytes"]
    assert run("checkpoint", "inspect", "--role", "monitor", "--partition", str(monitor["partition"])) == 0
    said = capsys.readouterr().out
    assert f"monitor-{monitor['partition']}: {monitor['entries']} entries" in said
    assert "fraud: 3 groups" in said
    assert SECRET.decode() not in json.dumps(tasks) + said
    assert run("checkpoint", "inspect", "--partition", "9") == 2
    damaged = KafkaProducer(bootstrap_servers=deployment.broker)
    damaged.send(deployment.topics.checkpoints("joiner"), key=b"meta", value=b"\xc1", partition=1)
    damaged.send(deployment.topics.checkpoints("monitor"), key=b"input", value=None, partition=monitor["partition"])
    damaged.flush()
    damaged.close()
    capsys.readouterr()
    assert run("checkpoint", "inspect", "--json") == 1
    problems = {
        f"{task['role']}-{task['partition']}": task["problem"]
        for task in json.loads(capsys.readouterr().out)["tasks"]
        if task["problem"]
    }
    assert problems.keys() == {"joiner-1", f"monitor-{monitor['partition']}"}
