"""The Shiryaev-Roberts e-detector: drift with a budget for false alarms."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from streamapp.core.detection.alarm import Alarm, State
from streamapp.core.detection.loss_reference import LossReference, Normal, Sums
from streamapp.core.events import Floats, Ints
from streamapp.core.settings import ModelSettings
from streamapp.errors import CheckpointError

BETS = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7])
"""Shares of the largest bet that stays solvent; their statistics are averaged."""
BLOCK = 512
"""Steps after which products are folded into the state: the smallest possible product, 0.3**512, is 1e-268."""
VERSION = 1

_LANES = np.arange(len(BETS))


@dataclass(frozen=True, slots=True)
class _Crossing:
    """The statistic reached its threshold."""

    row: int
    """Index into the rows given."""
    score: float
    rows: int
    """Rows since the estimated change."""
    mean: float
    """Mean of what was tested since then."""


class _Side(Struct):
    """One direction. Arrays have one entry per bet, shape (7,)."""

    bound: float
    """The mean that is not exceeded while nothing changes."""
    batch: int
    """Rows averaged to one step, so that correlated losses do not fool the test."""
    product: Floats
    """Product of the factors since it was last folded into the statistic."""
    mass: Floats
    """The statistic at the last fold, plus the sum of 1 / product as it was before each step since."""
    floor: Floats
    """Lowest product, ever, on the scale of the last fold: there the CUSUM was at its floor."""
    age: Ints
    """Plus ``steps``: steps since that floor."""
    since: Floats
    """Plus ``total``: sum of the steps since that floor."""
    pending: Floats
    """Rows that do not fill a step yet."""
    steps: int = 0
    total: float = 0.0
    score: float = 0.0

    @classmethod
    def start(cls, bound: float, batch: int) -> "_Side":
        zero, one = np.zeros(len(BETS)), np.ones(len(BETS))
        age = np.zeros(len(BETS), np.int64)
        return cls(bound, batch, one, zero, one, age, zero, np.zeros(0))

    def advance(self, rows: Floats, threshold: float) -> _Crossing | None:
        """Take rows up to the first crossing. After one, the state is of no use any more."""
        waiting, batch = len(self.pending), self.batch
        if batch > 1:
            rows = np.concatenate([self.pending, rows])
            whole = len(rows) // batch * batch
            self.pending = rows[whole:].copy()
            rows = rows[:whole].reshape(-1, batch).mean(axis=1)
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + BLOCK - self.steps)
            found = self._block(rows[start:stop], threshold)
            if found is not None:
                return replace(found, row=(start + found.row + 1) * batch - waiting - 1)
            start = stop
        return None

    def _block(self, x: Floats, threshold: float) -> _Crossing | None:
        # With P the product and M_0 the statistic at the fold, M_n = P_n * (M_0 + sum of 1 / P_j over j < n).
        # Accumulations are carried on where the last call stopped: how rows are cut does not matter, to the bit.
        size = len(x) + 1
        products = np.empty((len(BETS), size))
        products[:, 0] = self.product
        np.multiply.outer(BETS / self.bound, x - self.bound, out=products[:, 1:])
        products[:, 1:] += 1.0
        masses = np.empty((len(BETS), size))
        masses[:, 0] = self.mass
        with np.errstate(over="ignore"):  # past the threshold a product may become infinite
            np.multiply.accumulate(products, axis=1, out=products)
            np.divide(1.0, products[:, :-1], out=masses[:, 1:])
            np.add.accumulate(masses, axis=1, out=masses)
            scores = np.add.reduce(products * masses, axis=0) / len(BETS)
        totals = np.add.accumulate(np.concatenate([[self.total], x]))
        hit = self._hit(products, scores, threshold)
        end = size if hit is None else hit + 1
        self._lower(products[:, 1:end], totals[1:end])
        self.steps += end - 1
        # Copies: a view would keep the whole block alive.
        self.product, self.mass = products[:, end - 1].copy(), masses[:, end - 1].copy()
        self.total, self.score = float(totals[end - 1]), float(scores[end - 1])
        if hit is not None:
            lane = int(np.argmax(self.product / self.floor))
            steps = int(self.age[lane]) + self.steps
            mean = (float(self.since[lane]) + self.total) / steps
            return _Crossing(hit - 1, self.score, steps * self.batch, mean)
        if self.steps == BLOCK:
            self._fold()
        return None

    def _hit(self, products: Floats, scores: Floats, threshold: float) -> int | None:
        """Return the first column past the first that crosses."""
        high = scores >= threshold
        high[0] = False
        if not high.any():
            return None
        # Under losses that never vary the statistic grows by one a step, without any evidence of a rise: that the
        # product has at least doubled since its floor is asked too.
        floors = np.minimum.accumulate(np.concatenate([self.floor[:, None], products[:, 1:]], axis=1), axis=1)
        high &= (products >= 2.0 * floors).any(axis=0)
        return int(high.argmax()) if high.any() else None

    def _lower(self, products: Floats, totals: Floats) -> None:
        first = products.argmin(axis=1)
        lowest = products[_LANES, first]
        lower = lowest < self.floor
        self.floor = np.where(lower, lowest, self.floor)
        self.age = np.where(lower, -(self.steps + first + 1), self.age)
        self.since = np.where(lower, -totals[first], self.since)

    def _fold(self) -> None:
        self.mass = self.product * self.mass
        self.floor = self.floor / self.product
        self.product = np.ones(len(BETS))
        self.age, self.since = self.age + self.steps, self.since + self.total
        self.steps, self.total = 0, 0.0


class EDetector:
    """Alarm when the mean loss has risen above its reference; at most one false alarm per ``budget`` rows.

    For losses x in [0, 1] and a mean of at most m while nothing changes, ``M <- (M + 1) * (1 + bet * (x - m))`` is a
    Shiryaev-Roberts e-detector for every bet in (0, 1/m), and so is the average over several bets. Alarming when it
    reaches ``budget`` gives a mean run length of at least ``budget`` rows between false alarms, whatever the
    distribution (Shin, Ramdas, Rinaldo: E-detectors: a nonparametric framework for sequential change detection,
    arXiv:2203.03532). m is the upper bound of
    :class:`~streamapp.core.detection.loss_reference.LossReference`; the promise holds as far as that bound does.

    Where the reference shows correlated losses, the means of 16 or 64 rows are tested instead, against ``budget``
    divided by as many.

    - *Up* (severity ``act``): both directions stop and a new reference is collected at the new level. A level that
      stays high is one alarm, not one per ``budget``'s worth of evidence; when it comes back, that is a recovery.
    - *Down* (severity ``warn``): the mirrored test, on 1 - x, holds that the loss has fallen. A new reference is
      collected, since a detector anchored to a worse past would be blind to the next rise; until it is finished the
      old one goes on watching.

    Args:
        settings: ``reference_rows``, ``cycle`` and ``budget`` are used.
        budget: Instead of the settings' own.
        batch: Rows to average, 1 to 1024; None: chosen from the reference.

    >>> detector = EDetector(ModelSettings(reference_rows=400, cycle=None, budget=1000))
    >>> losses = np.tile([0.0, 0.0, 0.0, 1.0], 200)
    >>> detector.update(losses, np.arange(800.0))
    []
    >>> [alarm] = detector.update(np.tile([0.0, 1.0], 200), np.arange(400.0))
    >>> alarm.direction, alarm.before, alarm.row < 100
    ('up', 0.25, True)
    """

    name = "e-sr"

    def __init__(self, settings: ModelSettings, *, budget: float | None = None, batch: int | None = None) -> None:
        self._settings = settings
        self._budget = float(settings.budget if budget is None else budget)
        self._batch = batch
        if not self._budget > 1.0:
            raise ValueError(f"budget must be above 1, got {budget}")
        if batch is not None and not 1 <= batch <= 1024:
            raise ValueError(f"batch must be from 1 to 1024, got {batch}")
        self.reset()

    def reset(self) -> None:
        """Forget everything: another version answers from now on."""
        self._reference: LossReference | None = LossReference(self._settings)
        self._normal: Normal | None = None
        self._up: _Side | None = None
        self._down: _Side | None = None

    @property
    def score(self) -> float | None:
        """The upward statistic, None while there is no reference."""
        return None if self._up is None else self._up.score

    @property
    def threshold(self) -> float | None:
        """What the score must reach, None while there is no reference."""
        return None if self._up is None else self._budget / self._up.batch

    @property
    def state(self) -> State:
        """Watching; or collecting a reference; or insufficient: rows enough, but not enough is known from them."""
        if self._up is not None:
            return "watching"
        return "insufficient" if self._reference is not None and self._reference.insufficient else "collecting"

    def update(self, losses: Floats, times: Floats) -> list[Alarm]:
        """Take the next losses and their event times; return the alarms in order of row."""
        rows = np.flatnonzero(np.isfinite(losses))
        values = np.clip(losses[rows], 0.0, 1.0)
        moments = times[rows]
        alarms: list[Alarm] = []
        start = 0
        while start < len(values):
            count, alarm = self._advance(values[start:], moments[start:])
            if alarm is not None:
                alarms.append(replace(alarm, row=int(rows[start + count - 1])))
            start += count
        return alarms

    def _advance(self, values: Floats, moments: Floats) -> tuple[int, Alarm | None]:
        """Take rows up to the next alarm or the next look at the reference, and return how many."""
        count = len(values) if self._reference is None else self._reference.take(values, moments)
        alarm = self._watch(values[:count])
        if alarm is not None and alarm.direction == "up":
            self.reset()
        elif alarm is not None:
            self._down = None
            self._reference = LossReference(self._settings)
        elif self._reference is not None and (normal := self._reference.normal()) is not None:
            self._anchor(normal)
        return (count, None) if alarm is None else (alarm.row + 1, alarm)

    def _watch(self, values: Floats) -> Alarm | None:
        down = None
        if self._down is not None:
            # A crossing ends this side either way; the other one must not see rows after it.
            down = self._down.advance(1.0 - values, self._budget / self._down.batch)
            values = values if down is None else values[: down.row + 1]
        up = None if self._up is None else self._up.advance(values, self._budget / self._up.batch)
        if up is not None:
            return self._alarm("up", "act", up, up.mean)
        return None if down is None else self._alarm("down", "warn", down, 1.0 - down.mean)

    def _alarm(
        self, direction: Literal["up", "down"], severity: Literal["warn", "act"], crossing: _Crossing, after: float
    ) -> Alarm:
        assert self._normal is not None
        assert self._up is not None
        normal = self._normal
        bound = normal.upper if direction == "up" else normal.lower
        evidence: dict[str, Any] = {"bound": bound, "reference_rows": normal.rows, "batch": self._up.batch}
        if normal.sparse:
            evidence["reference"] = "sparse"
        return Alarm(
            row=crossing.row,
            direction=direction,
            severity=severity,
            before=normal.mean,
            after=after,
            rows=crossing.rows,
            statistic=crossing.score,
            threshold=self._budget / self._up.batch,
            evidence=evidence,
        )

    def _anchor(self, normal: Normal) -> None:
        batch = self._batch
        if batch is None:
            batch = 1 if normal.dispersion == 1.0 else 16 if normal.dispersion <= 5.0 else 64
        self._reference, self._normal = None, normal
        self._up = _Side.start(normal.upper, batch)
        self._down = _Side.start(1.0 - normal.lower, batch)

    def snapshot(self) -> bytes:
        """Return the whole state."""
        sums = None if self._reference is None else self._reference.sums
        state = _State(VERSION, sums, self._normal, self._up, self._down)
        return msgspec.msgpack.encode(state, enc_hook=np.ndarray.tolist)

    def load(self, data: bytes) -> None:
        """Take over the state that :meth:`snapshot` returned; budget and reference size stay this detector's own.

        Raises:
            CheckpointError: The bytes are no such state.
        """
        try:
            state = msgspec.msgpack.decode(data, type=_State, dec_hook=lambda _, values: np.array(values))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"state of e-sr cannot be read: {error}") from error
        if state.version != VERSION:
            raise CheckpointError(f"state of e-sr has format {state.version}, this streamapp reads {VERSION}")
        self._reference = None if state.reference is None else LossReference(self._settings, state.reference)
        self._normal, self._up, self._down = state.normal, state.up, state.down


class _State(Struct, frozen=True):
    version: int
    reference: Sums | None
    normal: Normal | None
    up: _Side | None
    down: _Side | None
