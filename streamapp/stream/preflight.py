"""Before the first record: is the broker there, are the topics as they must be, is nobody else doing this work?"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from itertools import combinations

from kafka import KafkaAdminClient

from streamapp.config import ROLES, ProcessConfig, Role
from streamapp.errors import ConfigError
from streamapp.stream.topics import NoBroker, Topics, connected

logger = logging.getLogger(__name__)

SAY_EVERY = 15.0
TRY_EVERY = 1.0
TRY_FOR = 3.0


def group_of(config: ProcessConfig, roles: tuple[Role, ...]) -> str:
    """Return the consumer group: one for workers with all roles, and one for each role that runs alone."""
    return config.group_id if set(roles) == set(ROLES) else f"{config.group_id}-{'-'.join(roles)}"


async def ready_to_start(config: ProcessConfig, roles: tuple[Role, ...], waits: Callable[[str], None]) -> None:
    """Return when broker and topics are there; keep trying until then, and say so once in a while.

    Args:
        config: Of the process.
        roles: That it is about to own.
        waits: Told what is being waited for.

    Raises:
        ConfigError: topics have the wrong numbers of partitions, or workers of the other kind are running.
    """
    loop = asyncio.get_running_loop()
    said = ("", 0.0)
    while True:
        try:
            problem = await asyncio.to_thread(_problem, config, roles)
        except NoBroker as error:
            problem = str(error)
        if problem is None:
            return
        waits(problem)
        if problem != said[0] or loop.time() - said[1] > SAY_EVERY:
            logger.warning("waiting: %s", problem)
            said = (problem, loop.time())
        await asyncio.sleep(TRY_EVERY)


def _problem(config: ProcessConfig, roles: tuple[Role, ...]) -> str | None:
    with connected(config.broker, TRY_FOR, config.security()) as client:
        present = {
            topic["name"]: len(topic["partitions"]) for topic in client.describe_topics() if not topic["error_code"]
        }
        needed = needed_topics(config, roles)
        missing = sorted(topic for topic in needed if topic not in present)
        if missing:
            return f"missing topics: {', '.join(missing)}; make them with: streamapp topics --create"
        for topic, (count, setting) in needed.items():
            if count is not None and present[topic] != count:
                raise ConfigError(
                    f"{topic} has {present[topic]} partitions, expected {count} ({setting}): set that to"
                    f" {present[topic]}, or make the topics anew with streamapp topics --create"
                )
        # The embedded broker, which has no transactions, answers this in a way that kafka-python cannot read.
        return _others(client, config, roles) if config.transactions else None


def needed_topics(config: ProcessConfig, roles: tuple[Role, ...]) -> Mapping[str, tuple[int | None, str]]:
    """Return what must exist, with the number of partitions it must have and the setting that says so."""
    topics = Topics(config.topic_prefix)
    inputs = (config.partitions, "STREAMAPP_PARTITIONS")
    scored = (config.scored_partitions, "STREAMAPP_SCORED_PARTITIONS")
    needed: dict[str, tuple[int | None, str]] = {topics.scored: scored, topics.dead_letters: (None, "")}
    if "joiner" in roles:
        needed |= {topics.predictions: inputs, topics.outcomes: inputs, topics.checkpoints("joiner"): inputs}
    if "monitor" in roles:
        needed |= {topics.signals: (None, ""), topics.retrain: scored, topics.checkpoints("monitor"): scored}
    if "learner" in roles:
        needed |= {topics.retrain: scored, topics.model_updates: (None, ""), topics.checkpoints("learner"): scored}
    return needed


def _others(client: KafkaAdminClient, config: ProcessConfig, roles: tuple[Role, ...]) -> str | None:
    """Look for workers of the other kind: two groups would both be given the same partitions."""
    for name, group in client.describe_groups(rival_groups(config, roles)).items():
        if group["members"]:
            return (
                f"{len(group['members'])} member(s) of the group {name} are doing this work: workers with all roles and"
                " workers with --only cannot run together; stop one kind"
            )
    return None


def rival_groups(config: ProcessConfig, roles: tuple[Role, ...]) -> list[str]:
    """Return the groups of workers that have some of these roles, but not the same ones."""
    others = (other for count in range(1, len(ROLES) + 1) for other in combinations(ROLES, count))
    return [group_of(config, other) for other in others if set(other) & set(roles) and set(other) != set(roles)]
