import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from streamapp.core.losses import LARGEST, choose_loss, infer_task, label_word, loss_of
from streamapp.core.monitoring.judging import Classes, judge, losses
from streamapp.core.monitoring.ranking import BUFFER, POINTS, Ranking
from streamapp.core.scores import Scores, restore, scores_of
from streamapp.core.settings import Loss, ModelSettings, Task
from tests.core.rows import Row, batch, part

SETTINGS = ModelSettings()


def score(rows: list[Row], task: Task, settings: ModelSettings = SETTINGS, cuts: tuple[int, ...] = ()) -> Scores:
    """Score rows in pieces, cut at these places."""
    whole, scores, classes = batch(rows), scores_of(task), Classes()
    ends = sorted({*cuts, len(rows)})
    for start, end in zip([0, *ends], ends, strict=False):
        if start < end:
            piece = part(whole, start, end)
            scores.add(judge(piece, np.arange(end - start), task, settings, classes).block)
    return scores


def close(found: dict[str, float | None], expected: dict[str, float | None], tolerance: float = 1e-9) -> None:
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


def calibration_error(truth: np.ndarray, p: np.ndarray) -> float:
    frequency, confidence = calibration_curve(truth, p, n_bins=10)
    counts = np.histogram(np.searchsorted(np.linspace(0, 1, 11)[1:-1], p), bins=np.arange(11))[0]
    return float(np.sum(counts[counts > 0] * np.abs(frequency - confidence)) / len(p))


def binary_rows(n: int, seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    p = np.round(np.clip(0.3 * truth + 0.7 * rng.random(n), 0, 1), 3)
    p[:4] = (0.0, 1.0, 0.0, 1.0)
    truth[:4] = (False, True, True, False)
    return [Row(outcome=bool(t), scores=float(s)) for t, s in zip(truth, p, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics_are_those_of_scikit_learn(seed):
    rows = binary_rows(1500, seed)
    truth = np.array([row.outcome for row in rows])
    p = np.array([row.scores for row in rows])
    answer = p >= 0.5
    expected = {
        "accuracy": sk.accuracy_score(truth, answer),
        "precision": sk.precision_score(truth, answer),
        "recall": sk.recall_score(truth, answer),
        "f1": sk.f1_score(truth, answer),
        "log_loss": sk.log_loss(truth, p),
        "brier": sk.brier_score_loss(truth, p),
        "roc_auc": sk.roc_auc_score(truth, p),
        "ece": calibration_error(truth, p),
    }
    close(score(rows, "binary").metrics("brier"), expected)


def test_given_prediction_decides_before_the_threshold():
    rows = [
        Row(outcome=True, prediction=True, scores=0.1),
        Row(outcome=False, scores=0.5),
        Row(outcome=True, scores=0.6),
    ]
    metrics = score(rows, "binary", ModelSettings(threshold=0.6)).metrics("brier")
    assert (metrics["accuracy"], metrics["recall"]) == (1.0, 1.0)


def test_positive_class_may_be_a_string_a_number_or_a_class_with_a_probability():
    words = [
        Row(outcome="ok", prediction="fraud", scores={"fraud": 0.9, "ok": 0.1}),
        Row(outcome="fraud", scores={"fraud": 0.8, "ok": 0.2}),
    ]
    found = score(words, "binary", ModelSettings(positive="fraud")).metrics("brier")
    close(found, {"accuracy": 0.5, "recall": 1.0, "precision": 0.5, "brier": (0.81 + 0.04) / 2})
    numbers = [Row(outcome=1.0, scores=0.8), Row(outcome=0.0, scores=0.4)]
    close(score(numbers, "binary").metrics("brier"), {"accuracy": 1.0, "brier": (0.04 + 0.16) / 2, "roc_auc": 1.0})


@pytest.mark.parametrize("seed", range(3))
def test_multiclass_metrics_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    names = ["sky", "brick", "grass", "path", "window"]
    table = rng.dirichlet(np.ones(5) * 0.5, 800)
    truth = rng.integers(0, 4, 800)
    table[5] = (1, 0, 0, 0, 0)
    given_answers = rng.random(800) < 0.5
    rows = [
        Row(
            outcome=names[t],
            scores=dict(zip(names, p.tolist(), strict=True)),
            prediction=names[int(p.argmax())] if said else None,
        )
        for t, p, said in zip(truth, table, given_answers, strict=True)
    ]
    answer = table.argmax(axis=1)
    by_name = np.argsort(names)
    labels = sorted(names)
    expected = {
        "accuracy": sk.accuracy_score(truth, answer),
        "macro_f1": sk.f1_score(truth, answer, average="macro"),
        "log_loss": sk.log_loss([names[t] for t in truth], y_proba=table[:, by_name], labels=labels),
        "brier": float(np.mean(np.sum((table - np.eye(5)[truth]) ** 2, axis=1))),
    }
    close(score(rows, "multiclass").metrics("brier"), expected)


def test_a_class_without_a_probability_had_none():
    rows = [Row(outcome="b", scores={"a": 1.0})]
    close(
        score(rows, "multiclass").metrics("brier"),
        {"accuracy": 0.0, "brier": 2.0, "log_loss": -math.log(np.finfo(float).eps)},
    )


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_regression_metrics_are_those_of_scikit_learn(offset):
    rng = np.random.default_rng(4)
    truth = offset + rng.normal(size=1000)
    answer = truth + rng.normal(0.2, 0.5, 1000)
    rows = [Row(outcome=float(t), prediction=float(a)) for t, a in zip(truth, answer, strict=True)]
    expected = {
        "mae": sk.mean_absolute_error(truth, answer),
        "rmse": math.sqrt(sk.mean_squared_error(truth, answer)),
        "r2": sk.r2_score(truth, answer),
        "bias": float(np.mean(answer - truth)),
    }
    for cuts in ((), tuple(range(0, 1000, 7)), tuple(range(1000))):
        close(score(rows, "regression", cuts=cuts).metrics("absolute"), expected)


def test_undefined_metrics_are_none():
    assert set(scores_of("binary").metrics("brier").values()) == {None}
    assert set(scores_of("multiclass").metrics("brier").values()) == {None}
    assert set(scores_of("regression").metrics("absolute").values()) == {None}
    found = score([Row(outcome=False, prediction=False)], "binary").metrics("error")
    assert found == {
        "accuracy": 1.0,
        **dict.fromkeys(("precision", "recall", "f1", "log_loss", "brier", "roc_auc", "ece")),
    }
    found = score([Row(outcome=2.0, prediction=2.0)], "regression").metrics("absolute")
    assert found == {"mae": 0.0, "rmse": 0.0, "r2": None, "bias": 0.0}


def test_loss_of_the_outcome_counts_in_the_configured_loss_alone():
    rows = [Row(outcome=True, scores=0.5), Row(loss=0.75, scores=0.1, outcome=False)]
    scores = score(rows, "binary")
    metrics = scores.metrics("brier")
    assert (metrics["brier"], metrics["log_loss"], metrics["accuracy"]) == (0.5, math.log(2), 1.0)
    assert scores.loss_sums("brier")["brier"] == (1.0, 2)
    assert scores.loss_sums("log")["brier"] == (0.25, 1)


def test_rows_that_do_not_fit_count_for_nothing_and_say_why():
    rows = [
        Row(outcome="yes", scores=0.5),
        Row(outcome=True, prediction="yes"),
        Row(outcome=True),
        Row(outcome=True, scores=0.5),
    ]
    judged = judge(batch(rows), np.arange(4), "binary", SETTINGS, Classes())
    assert judged.reason.tolist() == [1, 2, 3, 0]
    assert np.isnan(judged.block[1:, :3]).all()
    assert score(rows, "binary").metrics("brier")["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("row", "task"),
    [
        (Row(outcome=True), "binary"),
        (Row(outcome="a", scores=0.3), "binary"),
        (Row(prediction="a"), "multiclass"),
        (Row(scores={"a": 1.0}, loss=0.2), "multiclass"),
        (Row(outcome=3.0), "regression"),
        (Row(loss=0.5), None),
    ],
)
def test_task_follows_from_the_row(row, task):
    assert infer_task(batch([row]), 0) == task


def test_default_loss_is_by_task_and_scores():
    assert choose_loss(None, "binary", scored=True) == "brier"
    assert choose_loss(None, "multiclass", scored=False) == "error"
    assert choose_loss(None, "regression", scored=False) == "absolute"
    assert choose_loss("log", "binary", scored=True) == "log"


probabilities = st.floats(0, 1)
tables = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(
    lambda weights: {name: weight / sum(weights) for name, weight in zip("cab", weights, strict=True)}
)


labels = st.sampled_from([True, False, 0.0, 1.0, 2.0, "1", "0", "true"])
POSITIVES = [True, False, 1.0, 0.0, 2.0, "1"]


def chances(p: float, settings: ModelSettings) -> dict[str, float]:
    """Return scores by class that give the positive one this probability."""
    word = label_word(settings.positive)
    return {word: p, {"true": "false", "false": "true", "1": "0", "0": "1"}.get(word, "other"): 1.0 - p}


@given(
    st.sampled_from(["error", "brier", "log"]),
    st.sampled_from(POSITIVES),
    labels,
    st.none() | labels,
    st.none() | probabilities,
    st.booleans(),
)
def test_one_answer_loses_what_its_row_does_in_a_batch(loss: Loss, positive, outcome, prediction, p, by_class):
    settings = ModelSettings(positive=positive)
    scores = p if p is None or not by_class else chances(p, settings)
    row = Row(outcome=outcome, prediction=prediction, scores=scores)
    alone = loss_of(loss, "binary", settings, outcome=outcome, prediction=prediction, scores=scores)
    assert losses(batch([row]), "binary", loss, settings)[0] == pytest.approx(alone, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize(
    ("positive", "outcomes"),
    [(True, (True, False)), (True, (1.0, 0.0)), (1.0, (True, False)), (1.0, (1.0, 0.0)), ("1", ("1", "0"))],
)
def test_binary_answers_lose_what_scikit_learn_says_whichever_way_their_outcomes_are_written(
    positive, outcomes, by_class
):
    settings = ModelSettings(positive=positive)
    truth, p = [1, 0, 1, 0, 1], [0.9, 0.1, 0.2, 0.7, 0.6]
    scores = [chances(x, settings) if by_class else x for x in p]
    for loss, expected in (
        ("brier", sk.brier_score_loss(truth, p)),
        ("log", sk.log_loss(truth, p)),
        ("error", 1.0 - sk.accuracy_score(truth, [x >= 0.5 for x in p])),
    ):
        found = [
            loss_of(loss, "binary", settings, outcome=outcomes[1 - y], scores=x)
            for y, x in zip(truth, scores, strict=True)
        ]
        assert np.mean(found) == pytest.approx(expected, rel=1e-12)


@given(st.sampled_from(["error", "brier", "log"]), st.sampled_from("abcd"), st.none() | st.sampled_from("abcd"), tables)
def test_one_answer_over_classes_loses_what_its_row_does_in_a_batch(loss: Loss, outcome, prediction, table):
    row = Row(outcome=outcome, prediction=prediction, scores=table)
    alone = loss_of(loss, "multiclass", SETTINGS, outcome=outcome, prediction=prediction, scores=table)
    assert losses(batch([row]), "multiclass", loss, SETTINGS)[0] == pytest.approx(alone, abs=1e-12)


numbers = st.floats(-9, 9) | st.sampled_from([LARGEST, -LARGEST, 1.001 * LARGEST, -1e308])


@given(st.sampled_from(["absolute", "squared"]), numbers, st.none() | numbers)
def test_one_number_loses_what_its_row_does_in_a_batch(loss: Loss, outcome, prediction):
    row = Row(outcome=outcome, prediction=prediction)
    alone = loss_of(loss, "regression", SETTINGS, outcome=outcome, prediction=prediction)
    assert losses(batch([row]), "regression", loss, SETTINGS)[0] == pytest.approx(alone, nan_ok=True)


@given(st.data())
def test_pieces_merge_to_what_one_pass_gives(data):
    task = data.draw(st.sampled_from(["binary", "multiclass", "regression"]))
    row = {
        "binary": st.builds(Row, outcome=st.booleans(), scores=st.none() | probabilities, prediction=st.booleans()),
        "multiclass": st.builds(Row, outcome=st.sampled_from("abc"), scores=tables),
        "regression": st.builds(Row, outcome=st.floats(-9, 9), prediction=st.floats(-9, 9)),
    }[task]
    rows = data.draw(st.lists(row, max_size=60))
    loss = choose_loss(None, task, scored=True)
    cut = data.draw(st.integers(0, len(rows)))
    whole = score(rows, task)
    singly = score(rows, task, cuts=tuple(range(len(rows))))
    merged, other = score(rows[:cut], task), score(rows[cut:], task)
    if task != "multiclass":
        # Codes of classes belong to a model: pieces with vocabularies of their own do not merge.
        before = other.snapshot()
        merged.merge(other)
        assert other.snapshot() == before
        close(merged.metrics(loss), whole.metrics(loss), 1e-12 if task == "binary" else 1e-9)
    close(singly.metrics(loss), whole.metrics(loss), 1e-12 if task != "regression" else 1e-9)
    assert restore(whole.snapshot()).metrics(loss) == whole.metrics(loss)


def test_class_scores_merge_over_one_vocabulary():
    classes = Classes()
    whole, first, second = (scores_of("multiclass") for _ in range(3))
    rows = [Row(outcome="ab"[i % 2], prediction="abc"[i % 3]) for i in range(20)]
    for target, piece in ((first, rows[:3]), (second, rows[3:]), (whole, rows)):
        target.add(judge(batch(piece), np.arange(len(piece)), "multiclass", SETTINGS, classes).block)
    second.merge(first)
    assert second.metrics("error") == whole.metrics("error")


N = 30_000
RNG = np.random.default_rng(11)
RARE = (RNG.random(N) < 0.02).astype(float)
HALF = (RNG.random(N) < 0.5).astype(float)
UNIFORM = RNG.random(N)
STREAMS = {
    "rare positives, scores near zero": (RNG.beta(0.05, 20, N) * (1 + RARE), RARE),
    "crowded": (0.5 + 1e-4 * (0.8 * UNIFORM + 0.2 * RARE * RNG.random(N)), RARE),
    "crowded to the last digits": (0.5 + 1e-12 * (UNIFORM + 0.3 * HALF), HALF),
    "constant": (np.full(N, 0.3), RARE),
    "perfect": (0.4 * UNIFORM + 0.5 * RARE, RARE),
    "few levels": (np.round(UNIFORM * 0.9 + 0.1 * HALF, 2), HALF),
    "sorted": (np.sort(UNIFORM), (RNG.random(N) < np.sort(UNIFORM)).astype(float)),
    "drifting": (np.linspace(0, 0.5, N) + 0.25 * UNIFORM * (1 + RARE), RARE),
    "wide, then crowded": (np.where(np.arange(N) < N / 10, UNIFORM, 0.5 + 1e-4 * (UNIFORM + HALF) / 2), HALF),
    "from the ends inwards": (0.5 + (-1.0) ** np.arange(N) * (0.5 - np.arange(N) / N / 2), HALF),
    "over many magnitudes": (10.0 ** (-15 * UNIFORM * (1 - 0.3 * HALF)), HALF),
    "an atom of half": (np.where(UNIFORM < 0.5, 0.0, UNIFORM), (RNG.random(N) < UNIFORM).astype(float)),
    "positives come last": (np.clip(0.9 * UNIFORM + 0.1 * (np.arange(N) > 0.98 * N), 0, 1), np.arange(N) > 0.98 * N),
}


@pytest.mark.parametrize("name", STREAMS)
def test_area_is_within_two_thousandths_for_any_scores(name):
    p, truth = STREAMS[name]
    truth = np.asarray(truth, float)
    exact = sk.roc_auc_score(truth, p)
    whole = Ranking()
    for start in range(0, N, 1000):
        whole.add(p[start : start + 1000], truth[start : start + 1000])
    assert whole.area() == pytest.approx(exact, abs=0.001)
    pieces = [Ranking() for _ in range(5)]
    for place, piece in enumerate(pieces):
        piece.add(p[place::5], truth[place::5])
    for piece in pieces[1:]:
        pieces[0].merge(piece)
    assert pieces[0].area() == pytest.approx(exact, abs=0.001)
    assert len(whole.snapshot()) < 17 * POINTS + 9 * BUFFER + 100


def test_area_is_exact_for_few_distinct_scores():
    p = np.round(UNIFORM * (POINTS - 1)) / (POINTS - 1)
    ranking = Ranking()
    ranking.add(p, HALF)
    assert ranking.area() == pytest.approx(sk.roc_auc_score(HALF, p), abs=1e-12)


@given(st.lists(st.integers(1, 9000), max_size=5))
def test_area_is_the_same_however_rows_are_cut(sizes):
    whole, pieces = Ranking(), Ranking()
    end = min(sum(sizes), N)
    whole.add(UNIFORM[:end], HALF[:end])
    start = 0
    for size in sizes:
        pieces.add(UNIFORM[start : min(start + size, end)], HALF[start : min(start + size, end)])
        pieces = Ranking.restore(pieces.snapshot())
        start = min(start + size, end)
    assert pieces.snapshot() == whole.snapshot()
