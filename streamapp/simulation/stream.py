"""The pure part of the simulated services: what is published, and when it is due."""

import heapq
import itertools
from collections.abc import Callable, Iterator
from random import Random

import msgspec

from streamapp.core.events import Outcome, Prediction
from streamapp.errors import ConfigError
from streamapp.simulation.datasets import Dataset
from streamapp.simulation.models import Answering
from streamapp.simulation.scenarios import Scenario

Event = Prediction | Outcome

_UNITS = 100_000
_LATENCY = {"champion": 0.008, "challenger": 0.013}
"""Median seconds of a group's simulated latency."""


class Simulation:
    """Services that answer rows of a data set, and outcomes that arrive later.

    Rows come at random moments, ``rate`` a second in the mean. Each belongs to a unit (say, a user), whose group is
    drawn once. The same arguments and the same answers give the same events.

    Args:
        dataset: Where the rows come from.
        scenario: What changes, and when.
        answering: What answers in each group; the caller may put a new version into it at any time.
        seed: Of every random choice.
        rate: Predictions a second.
        shares: Groups and their shares of the units, which sum to 1.
        delay: Least and most seconds between a prediction and its outcome.
        missing: Share of the outcomes that never come.
        repeated: Share of the outcomes that come a second time, later.
        run: Put in front of each prediction_id, so that runs do not meet.
        clock: Seconds that pass while a model answers are added to the simulated latency; None: nothing is added.

    Raises:
        ConfigError: An argument cannot be right.
    """

    def __init__(
        self,
        dataset: Dataset,
        scenario: Scenario,
        answering: dict[str, Answering],
        *,
        seed: int = 7,
        rate: float = 300.0,
        shares: dict[str, float] | None = None,
        delay: tuple[float, float] = (0.3, 1.5),
        missing: float = 0.03,
        repeated: float = 0.01,
        run: str = "sim",
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.shares = {"champion": 0.8, "challenger": 0.2} if shares is None else shares
        if rate <= 0 or not 0 <= delay[0] <= delay[1] or not 0 <= missing <= 1 or not 0 <= repeated <= 1:
            raise ConfigError("a simulation needs rate > 0, 0 <= delay, and shares of outcomes between 0 and 1")
        if abs(sum(self.shares.values()) - 1) > 1e-9 or set(self.shares) - set(answering):
            raise ConfigError("the shares of the groups must sum to 1, and each group needs a model")
        self.dataset = dataset
        self.scenario = scenario
        self.answering = answering
        self._rate = rate
        self._delay = delay
        self._missing = missing
        self._repeated = repeated
        self._run = run
        self._clock = clock or (lambda: 0.0)
        self._random = Random(seed)  # noqa: S311 - nothing secret
        self._source = dataset.draw(self._random)
        self._groups: dict[int, str] = {}

    def events(self, start: float, count: int | None = None) -> Iterator[tuple[float, Event]]:
        """Yield events with the time they are due, in order of it.

        Args:
            start: Time of the stream's beginning, in seconds since the epoch.
            count: Predictions to make; the outcomes that are then to come still follow. None: without end.
        """
        serial = itertools.count()
        waiting: list[tuple[float, int, Outcome]] = []
        now = start
        for number in itertools.count() if count is None else range(count):
            now += self._random.expovariate(self._rate)
            while waiting and waiting[0][0] <= now:
                due, _, outcome = heapq.heappop(waiting)
                yield due, outcome
            prediction, truth = self._answer(number, now, now - start)
            yield now, prediction
            for due in self._arrivals(now):
                outcome = Outcome(prediction_id=prediction.prediction_id, ts=due, outcome=truth)
                heapq.heappush(waiting, (due, next(serial), outcome))
        while waiting:
            due, _, outcome = heapq.heappop(waiting)
            yield due, outcome

    def _answer(self, number: int, now: float, elapsed: float) -> tuple[Prediction, bool | str | float]:
        row = self._source.row(from_region=self.scenario.inputs(elapsed))
        if self._random.random() < self.scenario.relation(elapsed):
            row = self.dataset.changed(row)
        features, truth = row
        unit = self._random.randrange(_UNITS)
        group = self._group(unit)
        answering = self.answering[group]
        before = self._clock()
        prediction, scores = answering.answerer.predict(features)
        took = self._clock() - before
        return Prediction(
            prediction_id=f"{self._run}-{number:08d}",
            model=self.dataset.name,
            ts=now,
            group=group,
            prediction=prediction,
            scores=scores,
            features=msgspec.Raw(msgspec.json.encode(features)),
            version=answering.version,
            latency=_LATENCY.get(group, 0.01) * self._random.lognormvariate(0.0, 0.4) + took,
            unit=f"u{unit:05d}",
            propensity=self.shares[group],
            series=self.dataset.series,
        ), truth

    def _group(self, unit: int) -> str:
        """Return the group of a unit, drawn when it is first seen."""
        group = self._groups.get(unit)
        if group is None:
            (group,) = self._random.choices(list(self.shares), list(self.shares.values()))
            self._groups[unit] = group
        return group

    def _arrivals(self, now: float) -> Iterator[float]:
        """Yield when the outcome of a prediction made at *now* comes: mostly once."""
        delay, fate = self._random.uniform(*self._delay), self._random.random()
        if fate >= self._missing:
            yield now + delay
            if fate >= 1 - self._repeated:
                yield now + delay + self._random.uniform(0.5, 3.0)
