"""The app of an environment has its roles' agents, and they hand every batch to the runtime."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from agents.app import create_app
from streamapp.core.events import Tick
from streamapp.errors import ConfigError
from streamapp.stream.app import App
from streamapp.stream.codec import encode_scored
from tests.stream.doubles import START, Broker, MemoryConsumer, prediction, run

INPUTS = {"joiner": ["t.predictions", "t.outcomes"], "monitor": ["t.scored"], "learner": ["t.retrain"]}


def environ(folder: Path, **more: str) -> dict[str, str]:
    return {
        "STREAMAPP_TOPIC_PREFIX": "t.",
        "STREAMAPP_GROUP_ID": "g",
        "STREAMAPP_DATA": str(folder),
        "STREAMAPP_WEB_PORT": "0",
        **more,
    }


@pytest.mark.parametrize(
    ("only", "roles", "group"),
    [
        ("", ("joiner", "monitor", "learner"), "g"),
        ("joiner", ("joiner",), "g-joiner"),
        ("monitor", ("monitor",), "g-monitor"),
        ("learner,joiner", ("joiner", "learner"), "g-joiner-learner"),
        ("learner, monitor,joiner", ("joiner", "monitor", "learner"), "g"),
    ],
)
def test_the_environment_says_which_agents_there_are(
    tmp_path: Path, only: str, roles: tuple[str, ...], group: str
) -> None:
    app = create_app(environ(tmp_path, STREAMAPP_ONLY=only))
    agents: dict[str, Any] = dict(app.agents)
    assert tuple(agents) == roles
    assert app.roles == roles
    assert app.conf.id.startswith(group)
    for role in roles:
        assert list(agents[role].channel.topics) == INPUTS[role]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"STREAMAPP_PARTITIONS": "many"}, "STREAMAPP_PARTITIONS must be"),
        ({"STREAMAPP_ONLY": "joiner,cook"}, "got 'cook'"),
        ({"STREAMAPP_MODELS": "/nowhere/models.toml"}, "/nowhere/models.toml"),
        ({"STREAMAPP_ARTIFACTS": "nosuch://bucket"}, "STREAMAPP_ARTIFACTS"),
    ],
)
def test_a_wrong_environment_is_refused(tmp_path: Path, wrong: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        create_app(environ(tmp_path, **wrong))


def test_a_wrong_environment_ends_the_worker_with_2_and_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agents"],
        env={**os.environ, "STREAMAPP_PARTITIONS": "many"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("streamapp: STREAMAPP_PARTITIONS must be")
    assert done.stdout == ""


async def owning(app: App, broker: Broker, *partitions: TP) -> None:
    """Let an app own tasks on a broker in memory."""
    around = app.runtime.around
    around.reader, around.producer = broker.reader, broker.producer
    consumer = MemoryConsumer(broker)
    consumer.assigned = set(partitions)
    app.runtime.attach(consumer)
    await app.runtime.assign(consumer.assigned)


@pytest.mark.parametrize(
    ("role", "value"),
    [
        ("joiner", prediction(0, START)),
        ("monitor", encode_scored(Tick(partition=0, log_time=START))),
        ("learner", b"{"),
    ],
)
def test_an_agent_hands_what_it_gets_to_the_runtime(tmp_path: Path, role: Any, value: bytes) -> None:
    app = create_app(environ(tmp_path, STREAMAPP_ONLY=role))
    agents: dict[str, Any] = dict(app.agents)
    broker = Broker()

    async def work() -> None:
        inputs = [TP(topic, 0) for topic in INPUTS[role]]
        await owning(app, broker, *inputs)
        broker.append(inputs[0].topic, value)
        async with agents[role].test_context() as agent:
            await agent.put(value=broker.batch(inputs[0].topic, 0))
        task = app.runtime.tasks[role, 0]
        if role == "joiner":
            assert any(task._held.values())
        else:
            assert task.position(inputs[0]) == 1
        await task.close()

    run(work())


def test_an_agent_goes_on_after_a_batch_that_nobody_owns(tmp_path: Path) -> None:
    app = create_app(environ(tmp_path, STREAMAPP_ONLY="monitor"))
    agents: dict[str, Any] = dict(app.agents)
    broker = Broker()
    tick = encode_scored(Tick(partition=0, log_time=START))

    async def work() -> None:
        await owning(app, broker, TP("t.scored", 0))
        broker.append("t.scored", tick)
        broker.append("t.scored", tick, partition=1)
        async with agents["monitor"].test_context() as agent:
            await agent.put(value=broker.batch("t.scored", 0, partition=1))
            await agent.put(value=broker.batch("t.scored", 0))
        assert app.runtime.tasks["monitor", 0].position(TP("t.scored", 0)) == 1

    run(work())


def test_an_assignment_that_faust_tells_of_after_it_was_revoked_is_not_taken_up(tmp_path: Path) -> None:
    app = create_app(environ(tmp_path))
    heard: list[str] = []

    class Runtime:
        async def assign(self, assignment: Any) -> None:
            heard.append("assign")

        async def revoke(self) -> None:
            heard.append("revoke")

    async def nothing(*_: Any) -> None:
        pass

    app.runtime = Runtime()  # type: ignore[assignment]
    app.view.refresh = nothing  # type: ignore[method-assign]
    app.consumer = MemoryConsumer(Broker())
    app._on_rebalance_when_stopped = lambda: None  # type: ignore[method-assign]
    app._stopped.set()  # Faust itself has nothing to do with it

    async def work() -> None:
        await app._on_partitions_assigned({TP("t.scored", 0)})
        await app._assigned()
        await app._on_partitions_assigned({TP("t.scored", 1)})
        await app._revoked()
        await app._assigned()  # of the second, which is over
        await app._on_partitions_assigned({TP("t.scored", 2)})
        await app._assigned()

    run(work())
    assert heard == ["assign", "revoke", "assign"]
