"""Which group a worker joins, which topics it needs, and whom it must not meet."""

from itertools import combinations

import pytest

from streamapp.config import ROLES, ProcessConfig, Role
from streamapp.stream.preflight import group_of, needed_topics, rival_groups
from streamapp.stream.topics import Topics, plan

CONFIG = ProcessConfig(group_id="g", topic_prefix="t.", partitions=8, scored_partitions=4)
KINDS: list[tuple[Role, ...]] = [kind for count in (1, 2, 3) for kind in combinations(ROLES, count)]


def test_workers_with_all_roles_share_the_group_and_others_have_one_of_their_own() -> None:
    assert group_of(CONFIG, ROLES) == "g"
    assert group_of(CONFIG, ("joiner",)) == "g-joiner"
    assert group_of(CONFIG, ("joiner", "monitor")) == "g-joiner-monitor"
    assert len({group_of(CONFIG, kind) for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_rivals_are_those_who_would_do_some_of_the_same_work_in_another_group(kind: tuple[Role, ...]) -> None:
    expected = {group_of(CONFIG, other) for other in KINDS if other != kind and set(other) & set(kind)}
    assert set(rival_groups(CONFIG, kind)) == expected
    assert group_of(CONFIG, kind) not in expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_topic_that_a_role_needs_is_among_those_that_are_made_with_that_number_of_partitions(
    kind: tuple[Role, ...],
) -> None:
    made = {each.name: each.partitions for each in plan(Topics("t."), partitions=8, scored_partitions=4)}
    for topic, (count, setting) in needed_topics(CONFIG, kind).items():
        assert topic in made
        assert count in (None, made[topic])
        assert (count is None) == (setting == "")


def test_each_role_needs_what_it_reads_what_it_writes_and_its_checkpoints() -> None:
    assert set(needed_topics(CONFIG, ("joiner",))) == {
        "t.predictions",
        "t.outcomes",
        "t.scored",
        "t.dead-letters",
        "t.checkpoints-joiner",
    }
    assert set(needed_topics(CONFIG, ("monitor",))) == {
        "t.scored",
        "t.signals",
        "t.retrain",
        "t.dead-letters",
        "t.checkpoints-monitor",
    }
    assert set(needed_topics(CONFIG, ("learner",))) == {
        "t.scored",
        "t.retrain",
        "t.model-updates",
        "t.dead-letters",
        "t.checkpoints-learner",
    }
    assert needed_topics(CONFIG, ("joiner",))["t.predictions"] == (8, "STREAMAPP_PARTITIONS")
    assert needed_topics(CONFIG, ("monitor",))["t.scored"] == (4, "STREAMAPP_SCORED_PARTITIONS")
