"""What the summary must say, from the input alone: plain Python that shares no code with the core."""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = tuple[str, Mapping[str, Any]]


@dataclass
class Expected:
    """What became of the pairs of one group."""

    predictions: int = 0
    scores: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def outcomes(self) -> int:
        return len(self.scores)

    @property
    def brier(self) -> float:
        return math.fsum((score - truth) ** 2 for score, truth in self.scores) / len(self.scores)

    @property
    def accuracy(self) -> float:
        return sum((score >= 0.5) == truth for score, truth in self.scores) / len(self.scores)


def stream(
    pairs: int, *, start: float, seed: int, model: str = "fraud", missing: float = 0.02, twice: float = 0.01
) -> Iterator[Event]:
    """Yield predictions of two groups and their outcomes, some later than others, a few never, a few twice."""
    draw = random.Random(seed)
    waiting: list[Event] = []
    for i in range(pairs):
        ts = start + i / 1000
        group = "champion" if draw.random() < 0.8 else "challenger"
        score = draw.random()
        prediction = {
            "prediction_id": f"{model}-{i:08d}",
            "model": model,
            "group": group,
            "ts": ts,
            "scores": score,
            "prediction": score >= 0.5,
            "version": "v1",
            "latency": 0.001 + 0.01 * draw.random(),
            "features": {"a": score, "b": draw.random()},
        }
        yield "predictions", prediction
        if draw.random() < twice:
            yield "predictions", {**prediction, "scores": 1 - score}
        if draw.random() >= missing:
            truth = draw.random() < score
            outcome: Event = (
                "outcomes",
                {"prediction_id": prediction["prediction_id"], "ts": ts + 0.5, "outcome": truth},
            )
            waiting.append(outcome)
            if draw.random() < twice:
                waiting.append((outcome[0], {**outcome[1], "outcome": not truth}))
        while len(waiting) > 500:
            yield waiting.pop(0)
    yield from waiting


def expected(events: Iterator[Event]) -> dict[str, Expected]:
    """Return, by group, what must come out of a stream in which nothing expires: first come, first served."""
    groups: dict[str, Expected] = {}
    predictions: dict[str, Mapping[str, Any]] = {}
    answered: set[str] = set()
    for topic, event in events:
        key = event["prediction_id"]
        if topic == "predictions":
            if key not in predictions:
                predictions[key] = event
                groups.setdefault(event["group"], Expected()).predictions += 1
        elif key not in answered:
            answered.add(key)
            prediction = predictions[key]
            groups[prediction["group"]].scores.append((prediction["scores"], event["outcome"]))
    return groups
