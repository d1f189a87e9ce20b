"""What is stored as a learned model, or asked for as training, may be anybody's."""

import os
from pathlib import Path

import msgspec
import pytest

from streamapp.artifacts import ArtifactStore
from streamapp.core.events import Artifact
from streamapp.core.learning.learned import LearnedModel
from streamapp.core.settings import ModelSettings
from streamapp.errors import CheckpointError, DecodeError
from streamapp.stream.cloudevents import cloud_event
from streamapp.stream.codec import decode_retrain
from tests.hostile.pickles import Call, dumped, lying, running, stored
from tests.stream.doubles import Bench, commit, run
from tests.stream.test_codec import REQUEST, UPDATE
from tests.stream.test_learning import SETTINGS, answers, ask, opened, teach


def test_a_learned_model_that_asks_for_more_is_refused_and_named(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for name, pickled in {**running(str(canary)), **lying()}.items():
        with pytest.raises(CheckpointError) as caught:
            LearnedModel.load(stored(pickled))
        assert str(caught.value).startswith("stored object "), name
    with pytest.raises(CheckpointError, match=r"posix\.system, which is not allowed"):
        LearnedModel.load(hostile(canary))
    assert not canary.exists()


def hostile(canary: Path) -> bytes:
    """A learned model as it should be, but for what it holds."""
    model = LearnedModel("binary", ModelSettings(), seed=1)
    model.estimator = Call(os.system, f"touch {canary}")
    return stored(dumped(model))


def test_a_hostile_artifact_is_left_out_of_training_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench, canary = Bench(tmp_path, settings=SETTINGS), tmp_path / "canary"
    teach(bench)

    async def work() -> None:
        task = await opened(bench)
        ask(bench, "r1")
        (first,) = await answers(bench, task)
        assert first.artifact is not None
        # Somebody puts another model into the store, and its hash into the checkpoint.
        artifact = task.store.put("fraud/default/learned-1", hostile(canary))
        key = ("fraud", "default")
        task._learned[key] = msgspec.structs.replace(task._learned[key], artifact=artifact)
        ask(bench, "r2")
        (second,) = await answers(bench, task)
        assert (second.status, second.version) == ("accepted", "learned-2")
        assert task.counters.recoveries == {("learner", "artifact_refused"): 1}
        await commit(task)
        await task.close()

    run(work())
    assert "is left out: stored object names posix.system, which is not allowed" in caplog.text
    assert not canary.exists()


def test_an_artifact_without_end_is_refused_by_its_size(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path), largest=1000)
    assert len(store.get(store.put("m/g/v", bytes(1000)))) == 1000
    with pytest.raises(CheckpointError, match="at most 1000 bytes, found more"):
        store.get(store.put("m/g/v", bytes(1001)))
    with pytest.raises(CheckpointError, match="at most 1000 bytes, found more"):
        store.get(Artifact(uri="file:///dev/zero", sha256="00", format="x"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ""}, "length 1 to 1024, got 0 - at `$.id`"),
        ({"id": "x" * 1025}, "got 1025 - at `$.id`"),
        ({"model": "m" * 100_000}, "got 100000 - at `$.model`"),
        ({"group": ""}, "got 0 - at `$.group`"),
        ({"at": -1.0}, "seconds from 1970 to 5138, got -1.0 - at `$.at`"),
        ({"at": 1e300}, "got 1e+300 - at `$.at`"),
    ],
)
def test_a_request_whose_names_or_times_nobody_can_use_is_refused(changes: dict[str, object], said: str) -> None:
    value = msgspec.json.encode(msgspec.structs.replace(REQUEST, **changes))
    with pytest.raises(DecodeError, match=said.replace("$", r"\$").replace("+", r"\+")) as caught:
        decode_retrain(value)
    assert caught.value.reason == "out_of_range"


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (-1e300, b"1970-01-01T00:00:00+00:00"),
        (1.5, b"1970-01-01T00:00:01.500000+00:00"),
        (1e11, b"5138-11-16T09:46:40+00:00"),
        (1e300, b"9999-12-31T23:59:59+00:00"),
        (float("inf"), b"9999-12-31T23:59:59+00:00"),
    ],
)
def test_an_event_of_any_time_has_a_time_that_can_be_written(at: float, said: bytes) -> None:
    assert dict(cloud_event("t", "m", "model-update", UPDATE, at).headers)["ce_time"] == said
