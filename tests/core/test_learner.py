"""Requests answered: what teaches, what is compared, and how it ends."""

import json
import math
import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from river import datasets

from streamapp.core import pickling
from streamapp.core.events import BeforeAfter, RetrainRequest, ScoredBatch, ScoredRange, Verdict, Window
from streamapp.core.learner import Learner, LearnResult, decode_features, seed_of
from streamapp.core.learning.learned import INPUTS, LearnedModel
from streamapp.core.settings import LearnerSettings, ModelSettings, Task
from streamapp.errors import DecodeError
from tests.core.rows import Row, batch

Data = list[tuple[dict[str, Any], Any]]
SETTINGS = ModelSettings(learner=LearnerSettings(proof_rows=200))


def request(first: int = 0, cause: int = 9, deadline: float = 1000.0) -> RetrainRequest:
    return RetrainRequest(
        id="r1",
        model="fraud",
        group="champion",
        reason="drift",
        signals=("s1",),
        at=0.0,
        window=Window(from_=0.0, to=1.0, rows=500),
        scored=ScoredRange(partition=0, from_=first, cause=cause),
        metrics=BeforeAfter(before=None, after=None),
        deadline=deadline,
    )


def learner(
    settings: ModelSettings = SETTINGS, task: Task = "binary", parent: bytes | None = None, **kwargs: Any
) -> Learner:
    asked = request(**kwargs)
    old = None if parent is None else "v1"
    return Learner(asked, settings, task, parent=parent, parent_version=old, version="v2", seed=seed_of(asked))


def scored(rows: list[Row], features: list[bytes], model: str = "fraud") -> ScoredBatch:
    ends = np.cumsum([len(part) for part in features]).astype(np.int64)
    return replace(batch(rows, model=model), features=b"".join(features), feature_ends=ends)


def answers(data: Data, *, score: float | None = 0.5, **fields: Any) -> ScoredBatch:
    """Rows on which the incumbent always gave the same score."""
    given = {"group": "champion", "version": "v1", "scores": score} | fields
    return scored([Row(outcome=y, **given) for _, y in data], [json.dumps(x).encode() for x, _ in data])


def simple(count: int, seed: int = 0) -> Data:
    rng = random.Random(seed)
    points = [(rng.random(), rng.random()) for _ in range(count)]
    return [({"a": a, "b": b}, a > b) for a, b in points]


def run(work: Learner, data: Data, size: int = 50, **fields: Any) -> LearnResult:
    for offset, start in enumerate(range(0, len(data), size)):
        work.feed(answers(data[start : start + size], **fields), offset)
        if work.done:
            return work.result()
    raise AssertionError("not done")


def test_better_candidate_is_accepted_with_the_losses_of_both_on_the_same_rows() -> None:
    result = run(learner(), simple(1000))
    assert result.status == "accepted"
    assert (result.rows_learned, result.rows_compared, result.rows_skipped) == (700, 200, 0)
    assert result.incumbent == 0.25
    assert result.candidate is not None
    assert result.candidate < 0.15
    assert (result.version, result.parent) == ("v2", None)
    assert result.model is not None
    model = LearnedModel.load(result.model)
    wrong = sum(model.predict(x)[0] != y for x, y in simple(500, seed=9))
    assert wrong < 50


def test_candidate_loss_is_that_of_learning_the_same_rows_one_by_one() -> None:
    data = simple(1000)
    model = LearnedModel("binary", SETTINGS, seed=seed_of(request()))
    losses = []
    for x, y in data[:700]:
        score = model.predict(x)[1]
        assert isinstance(score, float)
        losses.append((score - y) ** 2)
        model.learn(x, y)
    assert run(learner(), data).candidate == pytest.approx(sum(losses[500:]) / 200, rel=1e-12)


def test_learning_the_same_rows_again_gives_the_same_answers_however_they_were_cut() -> None:
    settings = ModelSettings(learner=LearnerSettings(model="river.forest.ARFClassifier", proof_rows=100))
    first, second = (run(learner(settings), simple(800)) for _ in range(2))
    assert first.model is not None
    assert second.model is not None
    one, other = LearnedModel.load(first.model), LearnedModel.load(second.model)
    assert [one.predict(x) for x, _ in simple(50, 3)] == [other.predict(x) for x, _ in simple(50, 3)]
    assert first.candidate == second.candidate


def test_candidate_that_is_no_better_is_rejected() -> None:
    result = run(learner(), [(x, bool(i % 2)) for i, (x, _) in enumerate(simple(1000))])
    assert (result.status, result.model) == ("rejected", None)
    assert "brier loss" in result.reason


def test_margin_asks_for_more_than_equal() -> None:
    strict = ModelSettings(learner=LearnerSettings(proof_rows=200, margin=0.95))
    assert run(learner(strict), simple(1000)).status == "rejected"


def test_rows_before_the_range_and_of_other_models_teach_nothing() -> None:
    work = learner(first=5)
    for offset in range(5):
        work.feed(answers(simple(50)), offset)
    work.feed(replace(answers(simple(50)), model="other"), 6)
    work.advance(1000.0)
    assert work.result().rows_learned == 0


def test_every_group_teaches_and_only_the_requests_group_is_compared() -> None:
    work = learner()
    for offset, start in enumerate(range(0, 2000, 100)):
        data = simple(2000)[start : start + 100]
        rows = [
            Row(outcome=y, scores=0.5, version="v1", group=("champion", "other")[i % 2])
            for i, (_, y) in enumerate(data)
        ]
        work.feed(scored(rows, [json.dumps(x).encode() for x, _ in data]), offset)
    result = work.result()
    assert (result.rows_compared, result.rows_learned) == (200, 1400 - 1)


def test_only_joined_rows_with_features_teach() -> None:
    work = learner()
    x, y = simple(1)[0]
    good = json.dumps(x).encode()
    rows = [
        Row(outcome=y, group="champion"),
        Row(outcome=y, group="champion"),
        Row(outcome=y, group="champion"),
        Row(outcome=None, loss=0.5, group="champion"),
        Row(outcome=y, group="champion", verdict=Verdict.EXPIRED),
        Row(outcome=y, group="champion"),
    ]
    work.feed(scored(rows, [good, b"", b'{"a": [1]}', good, good, b'{"a": 1e999}']), 0)
    work.advance(1000.0)
    result = work.result()
    assert (result.rows_learned, result.rows_skipped) == (1, 4)


def test_losses_count_only_after_the_warmup() -> None:
    result = run(learner(cause=0), simple(1000), size=10)
    assert result.rows_learned == 50 + 200


def test_request_expires_at_its_deadline() -> None:
    work = learner()
    work.feed(answers(simple(50)), 0)
    work.advance(999.9)
    assert not work.done
    with pytest.raises(RuntimeError, match="not done"):
        work.result()
    work.advance(1000.0)
    result = work.result()
    assert (result.status, result.incumbent, result.candidate, result.model) == ("expired", None, None, None)
    assert "deadline" in result.reason
    work.feed(answers(simple(50)), 1)
    assert work.result().rows_learned == 50


def test_request_expires_when_another_version_answers_during_the_proof() -> None:
    work = learner(cause=9)
    for offset in range(11):
        work.feed(answers(simple(50, offset)), offset)
    work.feed(answers(simple(5), group="other", version="v9"), 11)
    assert not work.done
    work.feed(answers(simple(50), version="v2", log_time=1.0), 12)
    result = work.result()
    assert (result.status, result.rows_compared) == ("expired", 50)
    assert "v2" in result.reason


def test_versions_that_were_there_before_the_cause_do_not_end_the_proof() -> None:
    work = learner(cause=1)
    work.feed(answers(simple(50), version="v0"), 0)
    work.feed(answers(simple(50), version="v1"), 1)
    work.feed(answers(simple(150), version="v1"), 2)
    work.feed(answers(simple(150), version="v0"), 3)
    assert work.result().status == "accepted"


def after_the_cause(late: ScoredBatch) -> Learner:
    """Return a learner that has seen 50 rows of proof, then these."""
    work = learner(cause=1)
    for offset in range(3):
        work.feed(answers(simple(50, offset), version="v2", log_time=10.0 + offset), offset)
    work.feed(late, 3)
    return work


def test_a_late_row_of_an_older_version_teaches_and_is_not_compared() -> None:
    work = after_the_cause(answers(simple(1), version="v1", log_time=11.0))  # the newest at the cause is as old
    assert not work.done
    work.feed(answers(simple(150), version="v2", log_time=13.0), 4)
    result = work.result()
    assert (result.status, result.rows_learned, result.rows_compared) == ("accepted", 301, 200)


def test_a_row_without_a_version_is_compared_as_one_of_whichever_answers() -> None:
    work = after_the_cause(answers(simple(1), version=None, log_time=12.5))
    assert not work.done
    work.feed(answers(simple(149), version="v2", log_time=13.0), 4)
    result = work.result()
    assert (result.status, result.rows_learned, result.rows_compared) == ("accepted", 300, 200)


def test_a_version_that_begins_after_the_cause_ends_the_proof_after_late_rows_too() -> None:
    work = after_the_cause(answers(simple(1), version="v1", log_time=5.0))
    work.feed(answers(simple(1), version="v3", log_time=11.1), 4)
    result = work.result()
    assert (result.status, result.rows_compared) == ("expired", 50)
    assert "version v3 answered after 50 of 200" in result.reason


def test_no_version_ends_the_proof_where_no_row_tells_which_was_there() -> None:
    work = learner(cause=1)
    work.feed(answers(simple(300), version="v1", log_time=1.0), 2)
    assert work.result().status == "accepted"


def test_the_better_of_parent_and_fresh_goes_on() -> None:
    parent = LearnedModel("binary", SETTINGS, seed=1)
    for x, y in simple(2000, seed=5):
        parent.learn(x, y)
    kept = run(learner(parent=pickling.dumps(parent)), simple(1000))
    assert kept.parent == "v1"
    opposite = LearnedModel("binary", SETTINGS, seed=1)
    for x, y in simple(20_000, seed=5):
        opposite.learn(x, not y)
    fresh = run(learner(parent=pickling.dumps(opposite)), simple(1000))
    assert fresh.parent is None
    assert fresh.candidate == run(learner(), simple(1000)).candidate


def test_parent_that_cannot_be_used_is_left_out_and_named() -> None:
    regression = LearnedModel("regression", SETTINGS, seed=1)
    for parent, said in ((b"rubbish", "SAPK"), (pickling.dumps(regression), "regression")):
        result = run(learner(parent=parent), simple(1000))
        assert result.status == "accepted"
        assert "parent v1 was left out: " in result.reason
        assert said in result.reason


def test_hard_answers_are_compared_by_their_errors() -> None:
    result = run(learner(), simple(1000), score=None, prediction=True)
    assert result.incumbent == pytest.approx(0.5, abs=0.1)
    assert result.reason.startswith("error loss")


def test_multiclass_repairs_a_model_whose_columns_were_exchanged() -> None:
    data = list(datasets.ImageSegments())
    random.Random(1).shuffle(data)
    old = LearnedModel("multiclass", SETTINGS, seed=1)
    for x, y in data[:1000]:
        old.learn(x, y)
    names = sorted(data[0][0])
    turned = [({name: x[names[i - 3]] for i, name in enumerate(names)}, y) for x, y in data[1000:]]
    work = learner(task="multiclass", cause=7)
    for offset, start in enumerate(range(0, len(turned), 100)):
        part = turned[start : start + 100]
        rows = []
        for x, y in part:
            prediction, scores = old.predict(x)
            rows.append(Row(prediction=prediction, scores=scores, outcome=y, group="champion", version="v1"))
        work.feed(scored(rows, [json.dumps(x).encode() for x, _ in part]), offset)
    result = work.result()
    assert result.status == "accepted"
    assert result.incumbent is not None
    assert result.candidate is not None
    assert result.candidate < result.incumbent / 2


def test_outcomes_of_zero_and_one_are_those_that_scores_by_class_speak_of() -> None:
    data = [(x, float(y)) for x, y in simple(1000)]
    work = learner()
    for offset, start in enumerate(range(0, len(data), 50)):
        part = data[start : start + 50]
        rows = [
            Row(outcome=y, scores={"true": 0.01 + 0.98 * y, "false": 0.99 - 0.98 * y}, group="champion")
            for _, y in part
        ]
        work.feed(scored(rows, [json.dumps(x).encode() for x, _ in part]), offset)
    result = work.result()
    assert (result.status, result.incumbent) == ("rejected", pytest.approx(1e-4))


def test_an_outcome_of_another_type_teaches_nothing() -> None:
    work = learner()
    work.feed(answers([({"a": 1.0}, y) for y in (True, "true", 1.0, 2.0)]), 0)
    work.advance(1000.0)
    assert (work.result().rows_learned, work.result().rows_skipped) == (2, 2)


def test_regression_is_compared_in_its_own_units() -> None:
    data = [(x, 10.0 * x["a"] - 3.0 * x["b"]) for x, _ in simple(1500)]
    result = run(learner(task="regression"), data, score=None, prediction=0.0)
    truth = [abs(y) for _, y in data[500:700]]
    assert result.incumbent == pytest.approx(sum(truth) / 200)
    assert result.status == "accepted"


def test_estimator_that_raises_rejects_the_request_and_is_named() -> None:
    settings = ModelSettings(learner=LearnerSettings(model="river.naive_bayes.ComplementNB", scale=False))
    result = run(learner(settings), [({"a": 1e300 * x["a"]}, y) for x, y in simple(1000)])
    assert result.status == "rejected"
    assert "ZeroDivisionError from the estimator" in result.reason


class Mostly:
    """An estimator that is right, but for every third answer."""

    def __init__(self, wrong: float = 1e150) -> None:
        self.wrong = wrong
        self.asked = 0

    def learn_one(self, x: dict[str, float], y: float) -> None:
        pass

    def predict_one(self, x: dict[str, float]) -> float:
        self.asked += 1
        return self.wrong if self.asked % 3 == 0 else x["a"]


@pytest.mark.parametrize("wrong", [1e150, math.inf, math.nan])
def test_answers_beyond_all_numbers_that_count_do_not_spare_the_comparison(wrong: float) -> None:
    work = learner(task="regression")
    model = work._candidates[0].model
    model.estimator, model.scaler = Mostly(wrong), None
    result = run(work, [({"a": a["a"]}, a["a"]) for a, _ in simple(1000)], score=None, prediction=0.5)
    assert result.status == "rejected"
    assert result.candidate is None


def test_regression_that_diverges_is_rejected_without_a_number() -> None:
    settings = ModelSettings(learner=LearnerSettings(scale=False, proof_rows=100))
    data = [({"a": 1e200 * x["a"]}, 1.0) for x, _ in simple(1000)]
    result = run(learner(settings, task="regression"), data, score=None, prediction=0.0)
    assert (result.status, result.candidate) == ("rejected", None)


@pytest.mark.parametrize(
    ("config", "task", "said"),
    [
        ({"model": "os.system"}, "binary", "must be an estimator like"),
        ({"model": "river"}, "binary", "must be"),
        ({"model": "river.stream.Cache"}, "binary", "must be"),
        ({"model": "river.linear_model.Nothing"}, "binary", "River has no"),
        ({"model": "river.nothing.Nothing"}, "binary", "River has no"),
        ({"model": "river.utils.inspect"}, "binary", "no estimator|River has no"),
        ({"model": "river.linear_model.LinearRegression"}, "binary", "for a binary task"),
        ({"model": "river.linear_model.LogisticRegression"}, "multiclass", "for a multiclass task"),
        ({"model": "river.linear_model.LogisticRegression"}, "regression", "for a regression task"),
        ({"parameters": {"l3": 1}}, "binary", "l3"),
        ({"model": "river.tree.HoeffdingTreeClassifier", "parameters": {"splitter": 3}}, "binary", "is_target_class"),
        ({"model": "river.compose.Pipeline"}, "binary", "for a binary task"),
        ({"model": "river.facto.FMClassifier"}, "binary", "cannot be stored"),
    ],
)
def test_wrong_estimator_is_a_rejection_that_names_it(config: Any, task: Task, said: str) -> None:
    work = learner(ModelSettings(learner=LearnerSettings(**config)), task, parent=b"some")
    assert work.done
    work.feed(answers(simple(50)), 0)
    work.advance(1e9)
    result = work.result()
    assert (result.status, result.rows_learned, result.candidate, result.model) == ("rejected", 0, None, None)
    assert re.search(said, result.reason)


def test_estimator_inside_an_estimator_is_a_table() -> None:
    inner = {"model": "river.linear_model.LogisticRegression", "parameters": {"l2": 0.1}}
    settings = LearnerSettings(model="river.multiclass.OneVsRestClassifier", parameters={"classifier": inner})
    model = LearnedModel("multiclass", ModelSettings(learner=settings), seed=1)
    assert model.estimator.classifier.l2 == 0.1


# LearnedModel


def test_strings_teach_as_words_bools_as_numbers_and_null_not_at_all() -> None:
    model = LearnedModel("binary", ModelSettings(), seed=1)
    for i in range(600):
        model.learn({"country": "NO" if i % 2 else "SE", "vip": i % 3 == 0, "age": None}, i % 2 == 1)
    assert model.predict({"country": "NO", "vip": True})[0] is True
    assert model.predict({"country": "SE", "vip": True})[0] is False
    assert set(model.estimator.weights) == {"vip", "country=NO", "country=SE"}
    before = model.predict({"country": "NO"})
    assert model.predict({"country": "NO", "city": "never seen"}) == before


def test_inputs_are_bounded() -> None:
    model = LearnedModel("binary", ModelSettings(), seed=1)
    for i in range(INPUTS + 50):
        model.learn({"id": str(i), f"n{i}": 1.0, "first": 1.0}, True)
    assert (len(model.words), len(model.numbers)) == (INPUTS, INPUTS)
    assert len(model.estimator.weights) <= 2 * INPUTS


def test_predicting_changes_nothing() -> None:
    model = LearnedModel("binary", ModelSettings(), seed=1)
    for x, y in simple(100):
        model.learn(x, y)
    for i in range(50):
        model.predict({"a": 5.0, f"new{i}": 1.0, "word": str(i)})
    assert set(model.scaler.means) == {"a", "b"}
    assert set(model.estimator.weights) == {"a", "b"}


@pytest.mark.parametrize(
    ("task", "answer"), [("binary", (True, 0.5)), ("multiclass", (None, None)), ("regression", (None, None))]
)
def test_model_that_learned_nothing_answers_by_the_contract(task: Task, answer: Any) -> None:
    assert LearnedModel(task, ModelSettings(), seed=1).predict({"a": 1.0}) == answer


def test_scores_by_class_add_up_to_one_and_labels_come_back_as_they_were() -> None:
    model = LearnedModel("multiclass", ModelSettings(), seed=1)
    for i, (x, _) in enumerate(simple(300)):
        model.learn(x, float(i % 3))
    prediction, scores = model.predict({"a": 0.1, "b": 0.2})
    assert isinstance(scores, dict)
    assert sum(scores.values()) == pytest.approx(1.0, abs=1e-9)
    assert set(scores) == {"0", "1", "2"}
    assert prediction in (0.0, 1.0, 2.0)
    assert isinstance(prediction, float)


def test_binary_labels_may_be_words() -> None:
    model = LearnedModel("binary", ModelSettings(positive="bad"), seed=1)
    for x, y in simple(1000):
        model.learn(x, "bad" if y else "good")
    assert model.predict({"a": 1.0, "b": 0.0})[0] == "bad"
    assert model.predict({"a": 0.0, "b": 1.0})[0] == "good"


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"a": {}}', b'{"a": 1e999}', b'{"a": NaN}', b"\xff", b'{"\xff": 1}'])
def test_features_that_are_no_plain_object_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="features"):
        decode_features(data)
