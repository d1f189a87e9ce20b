"""The load drifts, and repairs itself with a new version."""

from collections import defaultdict

from streamapp.core.events import Outcome, Prediction
from streamapp.core.monitoring.versions import VERSIONS_MAX
from streamapp.stream.codec import decode_outcomes, decode_predictions
from tests.soak.load import NEVER, OLD, Maker

MODELS, ROWS, AGES = 3, 400, 3
COUNT = MODELS * ROWS * AGES


def test_outcomes_turn_round_in_the_second_half_of_each_version() -> None:
    maker = Maker(MODELS, ROWS)
    events = maker.predictions(0, COUNT, 1_790_000_000.0)
    outcomes = [maker.outcome(number, 1_790_000_001.0) for number in range(COUNT)]
    assert [number for number, outcome in enumerate(outcomes) if outcome is None] == list(range(0, COUNT, NEVER))
    sent = decode_outcomes([outcome for outcome in outcomes if outcome is not None])
    truths = {found.prediction_id: found.outcome for found in sent if isinstance(found, Outcome)}
    rows = defaultdict(list)
    for found in decode_predictions(events):
        assert isinstance(found, Prediction)
        assert isinstance(found.scores, float)
        if found.prediction_id in truths:
            rows[found.model, found.version].append(abs(found.scores - bool(truths[found.prediction_id])))
    assert {model for model, _ in rows} == {"model-000", "model-001", "model-002"}
    whole = [rows["model-000", f"v{age + 1}"] for age in range(1, AGES)]  # the first is cut short by older ones
    for losses in whole:
        before, after = losses[: len(losses) // 2], losses[len(losses) // 2 :]
        assert sum(before) / len(before) + 0.1 < sum(after) / len(after)


def test_the_first_rows_of_each_group_name_as_many_versions_as_are_kept() -> None:
    named = defaultdict(set)
    for found in decode_predictions(Maker(MODELS).predictions(0, MODELS * OLD, 1_790_000_000.0)):
        assert isinstance(found, Prediction)
        named[found.model, found.group].add(found.version)
    assert len(named) == 2 * MODELS
    assert {len(versions) for versions in named.values()} == {VERSIONS_MAX}
