"""What must come of every request for training: the core's learner run straight through over ``scored``."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from streamapp.artifacts import ArtifactStore
from streamapp.core.events import ModelUpdate, ScoredBatch, UpdateMetrics
from streamapp.core.learner import LearnedModel, Learner, seed_of
from streamapp.core.settings import Settings
from streamapp.stream.codec import decode_retrain, decode_scored
from tests.faults.logs import Log

PROBES = tuple({"a": a / 7, "b": b / 7} for a in range(8) for b in range(8))
"""Features that models are asked about, to tell whether they are the same."""


Update = tuple[ModelUpdate, bytes | None]
"""What must have been published, without its artifact, and the model that was accepted."""


def due_updates(log: Log, settings: Settings) -> dict[str, Update]:
    """Return, by id, what must come of the requests; one whose rows are not all there has no update yet.

    Args:
        log: With ``retrain`` and ``scored``.
        settings: Of the models.
    """
    partitions = [records for (topic, _), records in sorted(log.records.items()) if topic == "retrain"]
    return {update.id: (update, model) for each in partitions for update, model in _partition(each, log, settings)}


def check_updates(log: Log, settings: Settings, needed: Collection[str], compared: Counter[str]) -> None:
    """Hold published updates against those that are due; artifacts are compared by what they answer.

    Args:
        log: With ``retrain``, ``scored`` and ``model-updates``.
        settings: Of the models.
        needed: Ids of those that must be there. Learners may have been stopped before others.
        compared: Is told how much was compared.
    """
    wanted = due_updates(log, settings)
    found = [msgspec.json.decode(record.value, type=ModelUpdate) for record in log.of("model-updates")]
    twice = [name for name, count in Counter(update.id for update in found).items() if count > 1]
    assert not twice, f"model-updates: more than once: {twice[:5]}"
    names = {update.id for update in found}
    assert not set(needed) - names, f"model updates: missing {set(needed) - names}"
    assert not names - wanted.keys(), f"model updates: too many: {names - wanted.keys()}"
    for update in found:
        due, model = wanted[update.id]
        bare = msgspec.structs.replace(update, artifact=None)
        assert bare == due, f"model update {update.id}: {bare} != {due}"
        assert (update.artifact is None) == (model is None), f"model update {update.id}: artifact {update.artifact}"
        if update.artifact is not None and model is not None:
            stored = ArtifactStore("/").get(update.artifact)
            assert _answers(stored) == _answers(model), f"model update {update.id}: its artifact answers otherwise"
            compared["artifacts"] += 1
        compared["model updates"] += 1


def _partition(requests: list[Any], log: Log, settings: Settings) -> Iterator[Update]:
    learned: dict[tuple[str, str], tuple[str, int, bytes]] = {}
    busy: set[tuple[str, str]] = set()
    for record in requests:
        request = decode_retrain(record.value)
        key = request.model, request.group
        if key in busy:
            continue  # requests of one group build on each other's models
        parent, count, artifact = learned.get(key, (None, 0, None))
        own = settings.of(request.model)
        task = request.task or own.task
        assert task is not None
        version = f"learned-{count + 1}"
        learner = Learner(
            request, own, task, parent=artifact, parent_version=parent, version=version, seed=seed_of(request)
        )
        at = _feed(learner, log.records["scored", request.scored.partition], request.scored.from_)
        if at is None:
            busy.add(key)
            continue
        result = learner.result()
        if result.model is not None:
            learned[key] = version, count + 1, result.model
        yield (
            ModelUpdate(
                id=f"{request.id}-update",
                model=request.model,
                group=request.group,
                version=version,
                parent=parent,
                request=request.id,
                status=result.status,
                at=at,
                rows_learned=result.rows_learned,
                metrics=UpdateMetrics(incumbent=result.incumbent, candidate=result.candidate),
                artifact=None,
            ),
            result.model,
        )


def _feed(learner: Learner, records: list[Any], start: int) -> float | None:
    """Return the log time at which the learner was done, None if it is not."""
    for record in records:
        if record.offset < start:
            continue
        at = float(record.timestamp) / 1000
        message = decode_scored(record.value)
        if isinstance(message, ScoredBatch):
            learner.feed(message, record.offset)
        learner.advance(at)
        if learner.done:
            return at
    return None


def _answers(artifact: bytes) -> list[Any]:
    model = LearnedModel.load(artifact)
    return [model.predict(features) for features in PROBES]
