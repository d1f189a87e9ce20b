"""However many names producers send, state stays bounded, and ids and groups are told apart as before."""

from collections import Counter

import msgspec
import numpy as np
import pytest

from streamapp.core.events import Position, ScoredBatch
from streamapp.core.join import Joiner, Limits
from streamapp.core.joining.groups import Groups
from streamapp.core.joining.roster import Roster
from streamapp.core.joining.words import Words
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


def test_settings_that_come_to_name_a_group_let_what_waits_count_under_what_it_did() -> None:
    predictions = Log([(1.0, predict("x", 1, group="g")), (2.0, predict("a", 2, group="h"))])
    joiner, run = Joiner(0, SETTINGS, limits=ONE), Run()
    taken(joiner, run, predictions, Log([]), 2.5)
    assert run.pending == {("m", "g"): 1, ("m", "other"): 1}
    named = Settings(models={"m": ModelSettings(groups={"h": 1.0})}, defaults=SETTINGS.defaults)
    back = restore(run, predictions, Log([]), settings=named, limits=ONE)
    back.predictions(Log([(3.0, predict("b", 3, group="h"))], first=2).batch(0, 1))
    back.advance(outcomes=3)
    run.add(back.take())
    assert run.pending == {("m", "g"): 1, ("m", "other"): 1, ("m", "h"): 1}


def test_names_of_the_longest_kind_fit_into_checkpoint_entries() -> None:
    limit = Limits().groups
    events = [predict(f"p{i}", 1, model="ü" * 256, group=f"{i}".ljust(256, "\U0001f600")) for i in range(limit + 5)]
    joiner, run = Joiner(0, SETTINGS), Run()
    taken(joiner, run, Log([(1.0, event) for event in events]), Log([]), 2.0)
    assert len(run.entries[b"names/0"]) < 200_000


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (None, "has 4 entries, expected 5"),
        (b"\xff", "'names/0' cannot be read"),
        (b"\x01", "'names/0' cannot be read"),
        (msgspec.msgpack.encode(("m", ["g"], 0, 1.0, [0], [])), "'names/0' cannot be read: its columns do not fit"),
    ],
)
def test_names_that_cannot_be_read_are_a_damaged_checkpoint(broken: bytes | None, text: str) -> None:
    events = [predict("a", 1, model="m"), predict("b", 1, model="n")]
    joiner, run = Joiner(0, SETTINGS), Run()
    taken(joiner, run, Log([(1.0, event) for event in events]), Log([]), 2.0)
    if broken is None:
        del run.entries[b"names/0"]
    else:
        run.entries[b"names/0"] = broken
    with pytest.raises(CheckpointError, match=text):
        Joiner.restore(0, SETTINGS, run.entries)


# -- what is gone makes room -------------------------------------------------------------------------------------------

BRIEF = ModelSettings(outcome_window=Seconds(10), grace=Seconds(5), remember=Seconds(4), forget_after=Seconds(1600))
"""Last predictions are rounded up to hundreds of seconds."""
FORGETFUL = Settings(defaults=BRIEF)


class Feed:
    """A joiner that is handed one prediction after the other, and commits after each."""

    def __init__(self, settings: Settings = FORGETFUL, limits: Limits = ONE) -> None:
        self.settings, self.limits = settings, limits
        self.joiner, self.run, self.log = Joiner(0, settings, limits=limits), Run(), Log([])

    def predict(self, at: float, group: str = "g", model: str = "m", ahead: float = 0) -> tuple[str, str]:
        """Hand in a prediction; return what it counts under."""
        n = len(self.log.records)
        self.log.records.append((at, predict(f"p{n}", at + ahead, group=group, model=model)))
        self.joiner.predictions(self.log.batch(n, n + 1))
        ((counted, number),) = self.pass_to(at).items()
        assert number == 1
        return counted

    def pass_to(self, at: float) -> Counter[tuple[str, str]]:
        """Let log time go on; return what arrived."""
        before = self.run.arrived.copy()
        self.joiner.advance(predictions=at, outcomes=at)
        output = self.joiner.take()
        self.written = {key for key, value in output.state.items() if value is not None}
        self.run.add(output)
        return self.run.arrived - before

    def restart(self) -> None:
        self.joiner = restore(self.run, self.log, Log([]), settings=self.settings, limits=self.limits)

    @property
    def names(self) -> set[bytes]:
        return {key for key in self.run.entries if key.startswith(b"names/")}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("last", "until"), [(1000.0, 2600.0), (1001.0, 2700.0), (1100.0, 2700.0)])
@pytest.mark.parametrize("kind", ["group", "model"])
def test_a_name_makes_room_when_nothing_was_heard_of_it_for_forget_after(
    kind: str, last: float, until: float, restarted: bool
) -> None:
    for at, own in ((until, False), (until + 0.5, True)):
        feed = Feed()
        feed.predict(500, **{kind: "old"})
        feed.predict(last, **{kind: "old"})
        if restarted:
            feed.restart()
        counted = feed.predict(at, **{kind: "new"})
        assert ("new" in counted, "other" in counted) == (own, not own)


@pytest.mark.parametrize("cuts", [(3,), (2, 3), (1, 3), (1, 2, 3)])
@pytest.mark.parametrize(
    ("second", "expected"), [((2500.0, "g"), ["g", "g", "other"]), ((2600.5, "h"), ["g", "h", "h"])]
)
def test_names_come_and_go_within_one_fetch_as_they_do_between_many(cuts, second, expected) -> None:
    told = [(1000.0, "g"), second, (2700.0, "h")]
    joiner, run = Joiner(0, FORGETFUL, limits=ONE), Run()
    for cut in cuts:
        joiner.predictions(Log([(at, predict(f"p{at}", at, group=group)) for at, group in told]).batch(0, cut))
        joiner.advance(outcomes=3000)
    run.add(joiner.take())
    assert run.arrived == Counter(("m", group) for group in expected)


def test_a_model_stays_until_its_own_end_where_a_group_of_it_goes_before() -> None:
    feed = Feed(limits=Limits(groups=2, models=1))
    feed.predict(1000, "g")
    feed.predict(1001, "h")
    assert feed.predict(2700, model="n") == ("other", "g")
    assert feed.predict(2700.5, model="n") == ("n", "g")


@pytest.mark.parametrize("restarted", [(), (2595,), (2650,), (2705,), (2595, 2650, 2705)])
def test_what_overflowed_counts_under_its_own_name_once_there_is_room_and_what_waits_stays(restarted) -> None:
    feed = Feed()

    def pass_to(at: float) -> None:
        feed.pass_to(at)
        if at in restarted:
            feed.restart()

    assert feed.predict(1000) == ("m", "g")
    assert feed.predict(2590, "h", ahead=290) == ("m", "other")
    pass_to(2595)
    pass_to(2650)
    assert feed.predict(2700, "h", ahead=290) == ("m", "h")
    assert feed.predict(2701, "i", ahead=290) == ("m", "other")
    pass_to(2705)
    assert feed.run.pending == {("m", "other"): 2, ("m", "h"): 1}
    feed.pass_to(4000)
    assert [row[2:4] for row in feed.run.all_rows()[1:]] == [
        ("other", "EXPIRED"),
        ("h", "EXPIRED"),
        ("other", "EXPIRED"),
    ]


def test_a_model_that_gets_room_leaves_what_waits_where_it_was() -> None:
    feed = Feed()
    assert feed.predict(1000, model="m") == ("m", "g")
    assert feed.predict(2590, "h", "n", ahead=290) == ("other", "h")
    assert feed.predict(2591, "i", "n", ahead=290) == ("other", "other")
    assert feed.predict(2700, "i", "n", ahead=290) == ("n", "i")
    expected = {("other", "h"): 1, ("other", "other"): 1, ("n", "i"): 1}
    assert feed.run.pending == expected
    feed.restart()
    assert feed.joiner.take().pending == expected


def test_a_name_that_comes_back_after_it_was_gone_is_as_good_as_new() -> None:
    feed = Feed()
    assert feed.predict(1000, "g") == ("m", "g")
    assert feed.predict(2601, "h") == ("m", "h")
    assert feed.predict(2602, "g") == ("m", "other")
    assert feed.predict(5000, "g") == ("m", "g")


def test_no_name_goes_while_a_prediction_may_wait_that_counts_under_it() -> None:
    """The last that can be is one whose ts lies five minutes ahead."""
    patient = msgspec.structs.replace(BRIEF, outcome_window=Seconds(5000), forget_after=Seconds(1))
    feed = Feed(Settings(defaults=patient))
    feed.predict(993, ahead=300)  # patience 5306, so three quanta of 331
    feed.pass_to(6298)
    assert feed.run.pending == {("m", "g"): 1}
    assert feed.predict(6299, "h") == ("m", "other")
    assert feed.run.pending == {("m", "other"): 1}
    assert feed.predict(6299.5, "h") == ("m", "h")


def test_names_in_the_settings_and_other_take_nobody_elses_place() -> None:
    named = msgspec.structs.replace(BRIEF, groups={"challenger": 0.5}, control="champion")
    feed = Feed(Settings(defaults=BRIEF, models={"fraud": named}))
    for group in ("other", "champion", "challenger", "g"):
        assert feed.predict(1000, group, "fraud") == ("fraud", group)
    assert feed.predict(1000, "h", "fraud") == ("fraud", "other")
    assert feed.predict(1000, model="other") == ("other", "g")
    assert feed.predict(1000, model="m") == ("m", "g")
    assert feed.predict(1000, model="n") == ("other", "g")


def test_what_is_gone_leaves_memory_and_checkpoint() -> None:
    feed = Feed(limits=Limits(groups=2, models=2))
    feed.predict(1000, "g", "old")
    feed.predict(1000, "g", "new")
    feed.predict(2000, "h", "new")
    assert feed.names == {b"names/0", b"names/1"}
    feed.pass_to(2600)
    assert feed.joiner._state.roster.taken == {"old": ("g",), "new": ("g", "h")}
    feed.pass_to(2600.5)
    assert feed.joiner._state.roster.taken == {"new": ("h",)}
    assert feed.names == {b"names/1"}
    feed.restart()
    assert feed.joiner._state.roster.taken == {"new": ("h",)}
    feed.predict(2601, "g", "old")
    assert feed.names == {b"names/1", b"names/2"}
    feed.pass_to(9000)
    assert set(feed.run.entries) == {b"meta"}
    assert not feed.joiner._state.roster.taken


def test_the_entry_of_a_model_is_written_again_only_when_a_hundred_seconds_began() -> None:
    feed = Feed()
    written = []
    for at in range(1001, 1301):
        feed.predict(at)
        written += [at] * (b"names/0" in feed.written)
    assert written == [1001, 1101, 1201]


def test_names_that_follow_each_other_for_ever_leave_nothing_behind() -> None:
    joiner, run, n = Joiner(0, FORGETFUL), Run(), 8000
    log = Log([(10.0 * i, predict(f"p{i}", 10 * i, model=f"m{i}", group=f"g{i}")) for i in range(n)])
    for start in range(0, n, 100):
        joiner.predictions(log.batch(start, start + 100))
        joiner.advance(outcomes=10.0 * (start + 99))
        run.add(joiner.take())
        assert len(joiner._state.roster.taken) <= 170
        assert len(run.entries) <= 200
    assert run.arrived == {(f"m{i}", f"g{i}"): 1 for i in range(n)}
    groups = joiner._state.groups
    assert max(map(len, (groups.pairs, groups.models, groups._by_model))) < 2000
    assert len(groups.names) < 5000


@pytest.mark.parametrize("older", [1, 2])
def test_checkpoints_of_older_formats_are_read_and_their_names_count_as_heard_of_just_now(older: int) -> None:
    feed = Feed()
    feed.predict(1000, ahead=100)
    feed.predict(1950, "h", ahead=100)
    meta = msgspec.msgpack.decode(feed.run.entries[b"meta"])
    meta[0] = older
    if older == 1:
        del meta[-2:]
    feed.run.entries[b"meta"] = msgspec.msgpack.encode(meta)
    feed.run.entries[b"names/0"] = msgspec.msgpack.encode(("m", ["g", "other"]))
    feed.restart()
    feed.pass_to(1951)
    assert feed.run.pending == {("m", "other"): 1}
    assert feed.written == {b"names/0", b"meta"}
    feed.restart()
    assert feed.predict(3600, "h") == ("m", "other")
    assert feed.predict(3601, "h") == ("m", "h")


def test_predictions_that_are_lost_count_under_what_they_did() -> None:
    feed = Feed()
    feed.predict(1000, ahead=100)
    feed.predict(1000, "h", ahead=100)
    feed.predict(1000, "h", "n", ahead=100)
    feed.log = Log([], first=3)
    joiner = Joiner.restore(0, FORGETFUL, dict(feed.run.entries), limits=ONE, allow_lost=True)
    joiner.restored()
    feed.run.add(joiner.take())
    assert sorted(row[1:4] for row in feed.run.all_rows()) == [
        ("m", "g", "LOST"),
        ("m", "other", "LOST"),
        ("other", "h", "LOST"),
    ]
    assert feed.run.pending == {}


def test_what_waits_counts_under_what_it_did_in_whatever_order_it_is_read_again() -> None:
    roster = Roster(FORGETFUL, ONE)
    groups = Groups(FORGETFUL, roster, Words())
    groups.code("m", "g", 0, 1000.0)
    groups.code("m", "h", 3, 2000.0)
    roster.forget(2700.5)
    groups.reopen()
    groups.code("m", "h", 7, 2700.5)
    again = Groups(FORGETFUL, roster, Words())
    for offset, expected in ((7, "h"), (3, "other"), (8, "h"), (6, "other")):
        (code,) = again.again(["m"], ["h"], np.array([offset])).tolist()
        assert again.counted(code) == ("m", expected)
    assert len(again.pairs) == 2


def test_overflow_is_counted_also_of_what_is_left_when_many_names_are_swept_away() -> None:
    feed, n = Feed(), 1200
    feed.predict(1000)
    feed.predict(1000, "h", ahead=290)
    feed.log.records += [(1001.0, predict(f"q{i}", 1001, group=f"user-{i}")) for i in range(n)]
    feed.joiner.predictions(feed.log.batch(2, n + 2))
    feed.pass_to(1100)
    assert len(feed.joiner._state.groups.pairs) == 1
    assert feed.predict(1101, "h") == ("m", "other")
    assert feed.joiner.totals["predictions"]["other_group"] == n + 2
