"""The statistics of e-detectors: both directions, all bets, and several detectors at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from msgspec import Struct

from streamapp.core.events import Floats, Ints

BETS: Final = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7])
"""Shares of the largest bet that stays solvent; their statistics are averaged."""
BLOCK: Final = 512
"""Steps after which products are folded into the state: the smallest possible product, 0.3**512, is 1e-268."""

FEW: Final = 256
"""Fewer steps than these are worked out together with those of other detectors: there it is the calls that cost."""

_PRODUCT, _MASS, _FLOOR, _AGE, _SINCE, _RATE = range(6)
"""Rows of :attr:`Sides.lanes`; the rate is bet / bound."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A statistic reached its threshold."""

    up: bool
    row: int
    """Index into the rows given."""
    score: float
    rows: int
    """Rows since the estimated change."""
    mean: float
    """Mean of what was tested since then."""


class Side(Struct):
    """One direction, as it is stored. Arrays have one entry per bet, shape (7,)."""

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


class Sides:
    """One detector's statistics while it watches: upward, and downward (of 1 - x) until that has crossed.

    Both see the same rows, so they are at the same step.

    Args:
        up: State to go on from.
        down: Likewise, None where there is no such side any more.
        budget: What a statistic of single rows must reach.
    """

    def __init__(self, up: Side, down: Side | None, budget: float) -> None:
        sides = [up] if down is None else [up, down]
        self.batch = up.batch
        self.threshold = budget / up.batch
        self.bounds = np.array([side.bound for side in sides])
        """Shape (sides,), upward first."""
        self.lanes = np.array(
            [
                [side.product for side in sides],
                [side.mass for side in sides],
                [side.floor for side in sides],
                [side.age for side in sides],
                [side.since for side in sides],
                [BETS / side.bound for side in sides],
            ]
        )
        """What :class:`Side` has for each bet, and bet / bound; shape (6, sides, 7)."""
        self.pending = np.array([side.pending for side in sides])
        self.steps = up.steps
        self.totals = np.array([side.total for side in sides])
        self.scores = np.array([side.score for side in sides])

    @classmethod
    def start(cls, up: float, down: float, batch: int, budget: float) -> "Sides":
        """Return new ones, by the bounds of both directions."""
        zero, one, none = np.zeros(len(BETS)), np.ones(len(BETS)), np.zeros(0)
        age = np.zeros(len(BETS), np.int64)
        upward, downward = (Side(bound, batch, one, zero, one, age, zero, none) for bound in (up, down))
        return cls(upward, downward, budget)

    @property
    def score(self) -> float:
        """The upward statistic."""
        return float(self.scores[0])

    def stored(self) -> tuple[Side, Side | None]:
        """Return the state, to go on from."""
        sides = [
            Side(
                bound=float(self.bounds[side]),
                batch=self.batch,
                product=self.lanes[_PRODUCT, side],
                mass=self.lanes[_MASS, side],
                floor=self.lanes[_FLOOR, side],
                age=self.lanes[_AGE, side].astype(np.int64),
                since=self.lanes[_SINCE, side],
                pending=self.pending[side],
                steps=self.steps,
                total=float(self.totals[side]),
                score=float(self.scores[side]),
            )
            for side in range(len(self.bounds))
        ]
        return sides[0], sides[1] if len(sides) > 1 else None

    def batched(self, rows: Floats) -> Floats:
        """Return what the sides test of the next rows, shape (sides, steps)."""
        tested = np.empty((len(self.bounds), len(rows)))
        tested[0] = rows
        np.subtract(1.0, rows, out=tested[1:])
        if self.batch == 1:
            return tested
        tested = np.concatenate((self.pending, tested), axis=1)
        steps = tested.shape[1] // self.batch
        self.pending = tested[:, steps * self.batch :].copy()
        means: Floats = tested[:, : steps * self.batch].reshape(len(self.bounds), steps, self.batch).mean(axis=2)
        return means

    def _drop_down(self) -> None:
        """Go on upward only."""
        self.bounds, self.totals, self.scores = self.bounds[:1], self.totals[:1], self.scores[:1]
        self.lanes, self.pending = self.lanes[:, :1], self.pending[:1]

    def moved(
        self, up: bool | None, end: int, place: slice, products: Floats, masses: Floats, totals: Floats, scores: Floats
    ) -> Crossing | None:
        """Take the state after some steps, and return the crossing there.

        Args:
            up: The side that has crossed; None: neither.
            end: Steps.
            place: The sides among those in the arrays.
            products: Shape (sides, 7, steps), that of before the first step included, like the next.
            masses: Likewise.
            totals: Shape (sides, steps).
            scores: Likewise.
        """
        self.lanes[_PRODUCT], self.lanes[_MASS] = products[place, :, end], masses[place, :, end]
        self.totals, self.scores = totals[place, end].copy(), scores[place, end].copy()
        self.steps += end
        crossing = None
        if up is not None:
            side = 0 if up else 1
            lanes = self.lanes[:, side]
            lane = int(np.argmax(lanes[_PRODUCT] / lanes[_FLOOR]))
            steps = int(lanes[_AGE, lane]) + self.steps
            mean = (float(lanes[_SINCE, lane]) + float(self.totals[side])) / steps
            crossing = Crossing(up, end - 1, float(self.scores[side]), steps * self.batch, mean)
            self.pending = self.pending[:, :0]
            if not up:
                self._drop_down()
        if self.steps == BLOCK and not up:
            self._fold()
        return crossing

    def _fold(self) -> None:
        """Put the products into the statistics, before they leave the range of numbers."""
        lanes = self.lanes
        lanes[_MASS] = lanes[_PRODUCT] * lanes[_MASS]
        lanes[_FLOOR] = lanes[_FLOOR] / lanes[_PRODUCT]
        lanes[_PRODUCT] = 1.0
        lanes[_AGE] += self.steps
        lanes[_SINCE] += self.totals[:, None]
        self.steps, self.totals = 0, np.zeros(len(self.totals))


def advance(tests: Sequence[Sides], rows: Sequence[Floats]) -> list[Crossing | None]:
    """Let each test take rows of its own up to its first crossing, and return the crossings.

    A test whose upward side has crossed is of no use any more; a downward side that has crossed is dropped.
    """
    crossings: list[Crossing | None] = [None] * len(tests)
    waiting = [test.pending.shape[1] for test in tests]
    tested = [test.batched(part) for test, part in zip(tests, rows, strict=True)]
    done = [0] * len(tests)
    going = [place for place, steps in enumerate(tested) if steps.shape[1]]
    while going:
        parts = {place: tested[place][:, done[place] : done[place] + BLOCK - tests[place].steps] for place in going}
        # Those with few steps are worked out together, since it is the calls that cost then.
        few = [place for place in going if parts[place].shape[1] < FEW]
        for places in ([few] if few else []) + [[place] for place in going if place not in few]:
            found = _block([tests[place] for place in places], [parts[place] for place in places])
            for place, crossing in zip(places, found, strict=True):
                if crossing is not None:
                    row = (done[place] + crossing.row + 1) * tests[place].batch - waiting[place] - 1
                    crossings[place] = replace(crossing, row=row)
                done[place] += parts[place].shape[1]
        going = [place for place in going if crossings[place] is None and done[place] < tested[place].shape[1]]
    return crossings


def _block(tests: list[Sides], parts: list[Floats]) -> list[Crossing | None]:
    """Take steps of each test, shape (sides, steps), none of them beyond its next fold; crossings are in steps."""
    # With P the product and M_0 the statistic at the fold, M_n = P_n * (M_0 + sum of 1 / P_j over j < n).
    # Accumulations are carried on where the last call stopped: how rows are cut does not matter, to the bit.
    places, sides = [], 0
    for test in tests:
        places.append(slice(sides, sides + len(test.bounds)))
        sides += len(test.bounds)
    if len(tests) == 1:
        lanes, bounds, steps = tests[0].lanes, tests[0].bounds, parts[0]
    else:
        lanes = np.concatenate([test.lanes for test in tests], axis=1)
        bounds = np.concatenate([test.bounds for test in tests])
        # Behind the last step of a test its bound is repeated, which moves no product.
        steps = np.empty((sides, max(part.shape[1] for part in parts)))
        steps[:] = bounds[:, None]
        for place, part in zip(places, parts, strict=True):
            steps[place, : part.shape[1]] = part
    products = np.empty((sides, len(BETS), steps.shape[1] + 1))
    products[:, :, 0] = lanes[_PRODUCT]
    np.multiply(lanes[_RATE][:, :, None], (steps - bounds[:, None])[:, None, :], out=products[:, :, 1:])
    products[:, :, 1:] += 1.0
    masses = np.empty_like(products)
    masses[:, :, 0] = lanes[_MASS]
    totals = np.empty((sides, steps.shape[1] + 1))
    totals[:, 1:] = steps
    for test, place in zip(tests, places, strict=True):
        totals[place, 0] = test.totals
    with np.errstate(over="ignore"):  # past the threshold a product may become infinite
        np.multiply.accumulate(products, axis=2, out=products)
        np.divide(1.0, products[:, :, :-1], out=masses[:, :, 1:])
        np.add.accumulate(masses, axis=2, out=masses)
        scores = np.add.reduce(products * masses, axis=1)
    scores /= len(BETS)
    np.add.accumulate(totals, axis=1, out=totals)
    ends = [part.shape[1] for part in parts]
    crossed: list[bool | None] = [None] * len(tests)
    if np.maximum.reduce(scores[:, 1:], axis=None) >= min(test.threshold for test in tests):
        for number, (test, place) in enumerate(zip(tests, places, strict=True)):
            ends[number], crossed[number] = _crossed(test, products[place], scores[place], ends[number])
            products[place, :, ends[number] + 1 :] = products[place, :, ends[number], None]
    _lower(tests, places, lanes, products, totals)
    return [
        test.moved(up, end, place, products, masses, totals, scores)
        for test, up, end, place in zip(tests, crossed, ends, places, strict=True)
    ]


def _crossed(test: Sides, products: Floats, scores: Floats, end: int) -> tuple[int, bool | None]:
    """Return the step at which a side crosses first, and whether it is the upward one; *end* and None if none does."""
    up: bool | None = None
    for side in range(len(scores) - 1, -1, -1):  # of two that cross at once the upward one counts
        high = scores[side, : end + 1] >= test.threshold
        high[0] = False
        if not high.any():
            continue
        # Under losses that never vary the statistic grows by one a step, without any evidence of a rise: that the
        # product has at least doubled since its floor is asked too.
        own = products[side, :, 1 : end + 1]
        floors = np.minimum.accumulate(np.concatenate((test.lanes[_FLOOR, side, :, None], own), axis=1), axis=1)
        high &= (products[side, :, : end + 1] >= 2.0 * floors).any(axis=0)
        if high.any():
            end, up = int(high.argmax()), side == 0
    return end, up


def _lower(tests: list[Sides], places: list[slice], lanes: Floats, products: Floats, totals: Floats) -> None:
    """Note where products were lower than ever, and give each test its lanes."""
    sides, bets, width = products.shape
    first = products[:, :, 1:].argmin(axis=2) + 1
    lowest = products.ravel()[first + np.arange(0, sides * bets * width, width).reshape(sides, bets)]
    lower = lowest < lanes[_FLOOR]
    age = -first
    for test, place in zip(tests, places, strict=True):
        age[place] -= test.steps
    since = -totals.ravel()[first + np.arange(0, sides * width, width)[:, None]]
    for lane, values in ((_FLOOR, lowest), (_AGE, age), (_SINCE, since)):
        np.copyto(lanes[lane], values, where=lower)
    if len(tests) > 1:
        for test, place in zip(tests, places, strict=True):
            test.lanes = lanes[:, place]
