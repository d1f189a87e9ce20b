"""However many names producers send, state stays bounded, and ids and groups are told apart as before."""

import pytest

from streamapp.core.events import Position, ScoredBatch
from streamapp.core.join import Joiner, Limits
from streamapp.core.monitor import Monitor
from streamapp.core.settings import ModelSettings, Seconds, Settings
from streamapp.errors import CheckpointError
from tests.core.joining import SETTINGS, Log, Run, observe, predict, restore, whole

ONE = Limits(groups=1, models=1)


def taken(joiner: Joiner, run: Run, predictions: Log, outcomes: Log, end: float) -> None:
    joiner.predictions(predictions.batch(0, len(predictions.records)))
    joiner.outcomes(outcomes.batch(0, len(outcomes.records)))
    joiner.advance(predictions=end, outcomes=end)
    run.add(joiner.take())


def test_thirty_thousand_groups_stay_bounded_in_joiner_monitor_and_checkpoints() -> None:
    joiner, monitor, settings = Joiner(0, Settings()), Monitor(0, Settings()), Settings()
    n, offset = 30_000, 0
    entries: dict[str, dict[bytes, bytes]] = {"joiner": {}, "monitor": {}}
    predictions = Log(
        [(1000 + i / 100, predict(f"p{i}", 1000 + i / 100, group=f"user-{i}", scores=0.5)) for i in range(n)]
    )
    outcomes = Log([(1000 + i / 100, observe(f"p{i}", 1000 + i / 100, outcome=i % 3 == 0)) for i in range(n)])
    for start in range(0, n, 3000):
        now = 1000 + (start + 3000) / 100
        joiner.predictions(predictions.batch(start, start + 3000))
        joiner.outcomes(outcomes.batch(start, start + 3000))
        joiner.advance(predictions=now, outcomes=now)
        output = joiner.take()
        for message in (*output.arrivals, *output.rows):
            monitor.apply(message, Position(0, offset, now))
            offset += 1
            if isinstance(message, ScoredBatch):
                assert len(message.group.words) <= Limits().groups + 1
        for role, changes in (("joiner", output.state), ("monitor", monitor.take())):
            for key, value in changes.items():
                entries[role].pop(key, None)
                if value is not None:
                    assert len(value) < 512 * 1024
                    entries[role][key] = value
    groups = monitor.summary()["m"]["groups"]
    assert len(groups) == Limits().groups + 1
    assert {name for name in groups if name != "other"} == {f"user-{i}" for i in range(Limits().groups)}
    assert sum(group["outcomes"] for group in groups.values()) == n
    assert groups["other"]["predictions"] == n - Limits().groups
    assert joiner.totals["predictions"]["other_group"] == n - Limits().groups
    assert sum(map(len, entries["monitor"].values())) < 2_000_000
    assert Monitor.restore(0, settings, entries["monitor"]).summary() == monitor.summary()


def test_thousands_of_models_stay_bounded() -> None:
    n = 5000
    run, joiner = whole(Log([(10.0, predict(f"p{i}", 10, model=f"m{i}")) for i in range(n)]), Log([]), 1e6)
    assert len(run.rows) == Limits().models + 1
    assert len(run.rows["other"]) == n - Limits().models
    assert joiner.totals["predictions"]["other_model"] == n - Limits().models
    other = [name for model, name in run.arrived if model == "other"]
    assert other == ["g"]


def test_duplicates_are_told_by_their_own_group_also_when_both_groups_count_as_other() -> None:
    first = [(1.0, predict("x", 1, group="g"))]
    shadows = [(2.0, predict("a", 2, group="h")), (2.0, predict("a", 2, group="i")), (2.0, predict("a", 2, group="h"))]
    run = Run()
    joiner = Joiner(0, SETTINGS, limits=ONE)
    taken(joiner, run, Log(first + shadows), Log([(3.0, observe("a", 3)), (3.0, observe("x", 3))]), 3.5)
    assert joiner.totals["predictions"]["duplicate"] == 1
    assert run.arrived == {("m", "g"): 1, ("m", "other"): 2}
    assert [row[:4] for row in run.all_rows()] == [
        (0, "m", "g", "JOINED"),
        (1, "m", "other", "JOINED"),
        (2, "m", "other", "JOINED"),
    ]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("group", "duplicate"), [("h", 1), ("i", 0)])
def test_resolved_rows_are_remembered_by_their_own_group(restarted: bool, group: str, duplicate: int) -> None:
    """What comes late from a group that counts as other is no duplicate of another such group."""
    predictions = Log([(1.0, predict("x", 1, group="g")), (2.0, predict("a", 2, group="h"))])
    outcomes = Log([(2.0, observe("a", 2))])
    joiner, run = Joiner(0, SETTINGS, limits=ONE), Run()
    taken(joiner, run, predictions, outcomes, 2.5)
    assert [row[2] for row in run.all_rows()] == ["other"]
    if restarted:
        joiner = restore(run, predictions, outcomes, limits=ONE)
    joiner.predictions(Log([(3.0, predict("a", 2, group=group))], first=2).batch(0, 1))
    joiner.advance(predictions=4, outcomes=4)
    run.add(joiner.take())
    assert joiner.totals["predictions"]["duplicate"] == duplicate
    assert [row[2:5] for row in run.all_rows()[1:]] == ([] if duplicate else [("other", "JOINED", 0)])


def test_names_that_the_settings_name_are_never_other() -> None:
    settings = Settings(
        models={"fraud": ModelSettings(control="champion", groups={"champion": 0.5, "challenger": 0.5})},
        defaults=ModelSettings(outcome_window=Seconds(10), grace=Seconds(5)),
    )
    events = [
        predict(f"{model}/{group}", 1, model=model, group=group)
        for model in ("noise", "more", "fraud")
        for group in ("g", "h", "challenger", "champion", "other")
    ]
    joiner, run = Joiner(0, settings, limits=ONE), Run()
    taken(joiner, run, Log([(1.0, event) for event in events]), Log([]), 2.0)
    assert set(run.arrived) == {
        ("noise", "g"),
        ("noise", "other"),
        ("other", "g"),
        ("other", "other"),
        ("fraud", "g"),
        ("fraud", "challenger"),
        ("fraud", "champion"),
        ("fraud", "other"),
    }


def test_settings_that_come_to_name_a_group_do_not_lose_what_waits() -> None:
    predictions = Log([(1.0, predict("x", 1, group="g")), (2.0, predict("a", 2, group="h"))])
    joiner, run = Joiner(0, SETTINGS, limits=ONE), Run()
    taken(joiner, run, predictions, Log([]), 2.5)
    assert run.pending == {("m", "g"): 1, ("m", "other"): 1}
    named = Settings(models={"m": ModelSettings(groups={"h": 1.0})}, defaults=SETTINGS.defaults)
    back = restore(run, predictions, Log([]), settings=named, limits=ONE)
    run.add(back.take())
    assert run.pending == {("m", "g"): 1, ("m", "h"): 1}


def test_names_of_the_longest_kind_fit_into_checkpoint_entries() -> None:
    limit = Limits().groups
    events = [predict(f"p{i}", 1, model="ü" * 256, group=f"{i}".ljust(256, "\U0001f600")) for i in range(limit + 5)]
    joiner, run = Joiner(0, SETTINGS), Run()
    taken(joiner, run, Log([(1.0, event) for event in events]), Log([]), 2.0)
    assert len(run.entries[b"names/0"]) < 200_000


@pytest.mark.parametrize("broken", [None, b"\xff", b"\x01"])
def test_names_that_cannot_be_read_are_a_damaged_checkpoint(broken: bytes | None) -> None:
    events = [predict("a", 1, model="m"), predict("b", 1, model="n")]
    joiner, run = Joiner(0, SETTINGS), Run()
    taken(joiner, run, Log([(1.0, event) for event in events]), Log([]), 2.0)
    if broken is None:
        del run.entries[b"names/0"]
    else:
        run.entries[b"names/0"] = broken
    with pytest.raises(CheckpointError, match="names/0"):
        Joiner.restore(0, SETTINGS, run.entries)
