"""The Shiryaev-Roberts e-detector: drift with a budget for false alarms."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from streamapp.core.detection.alarm import Alarm, State
from streamapp.core.detection.loss_reference import LossReference, Normal, Sums
from streamapp.core.detection.sides import Crossing, Side, Sides, advance
from streamapp.core.events import Floats
from streamapp.core.settings import ModelSettings
from streamapp.errors import CheckpointError

VERSION = 1


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
        self._sides: Sides | None = None

    @property
    def score(self) -> float | None:
        """The upward statistic, None while there is no reference."""
        return None if self._sides is None else self._sides.score

    @property
    def threshold(self) -> float | None:
        """What the score must reach, None while there is no reference."""
        return None if self._sides is None else self._budget / self._sides.batch

    @property
    def state(self) -> State:
        """Watching; or collecting a reference; or insufficient: rows enough, but not enough is known from them."""
        if self._sides is not None:
            return "watching"
        return "insufficient" if self._reference is not None and self._reference.insufficient else "collecting"

    def update(self, losses: Floats, times: Floats) -> list[Alarm]:
        """Take the next losses and their event times; return the alarms in order of row."""
        rows = np.flatnonzero(np.isfinite(losses))
        (alarms,) = update_each([self], [np.clip(losses[rows], 0.0, 1.0)], [times[rows]])
        return [replace(alarm, row=int(rows[alarm.row])) for alarm in alarms]

    def _collect(self, values: Floats, moments: Floats) -> int:
        """Return how many of the next rows come before the next look at the reference, having put them into it."""
        return len(values) if self._reference is None else self._reference.take(values, moments)

    def _conclude(self, crossing: Crossing | None) -> Alarm | None:
        """Draw the conclusion from what the sides found in the rows before the next look."""
        if crossing is None:
            if self._reference is not None and (normal := self._reference.normal()) is not None:
                self._anchor(normal)
            return None
        alarm = self._alarm(crossing)
        if crossing.up:
            self.reset()
        else:
            self._reference = LossReference(self._settings)
        return alarm

    def _alarm(self, crossing: Crossing) -> Alarm:
        assert self._normal is not None
        assert self._sides is not None
        normal, up = self._normal, crossing.up
        direction: Literal["up", "down"] = "up" if up else "down"
        evidence: dict[str, Any] = {
            "bound": normal.upper if up else normal.lower,
            "reference_rows": normal.rows,
            "batch": self._sides.batch,
        }
        if normal.sparse:
            evidence["reference"] = "sparse"
        return Alarm(
            row=crossing.row,
            direction=direction,
            severity="act" if up else "warn",
            before=normal.mean,
            after=crossing.mean if up else 1.0 - crossing.mean,
            rows=crossing.rows,
            statistic=crossing.score,
            threshold=self._budget / self._sides.batch,
            evidence=evidence,
        )

    def _anchor(self, normal: Normal) -> None:
        batch = self._batch
        if batch is None:
            batch = 1 if normal.dispersion == 1.0 else 16 if normal.dispersion <= 5.0 else 64
        self._reference, self._normal = None, normal
        self._sides = Sides.start(normal.upper, 1.0 - normal.lower, batch, self._budget)

    def snapshot(self) -> bytes:
        """Return the whole state."""
        sums = None if self._reference is None else self._reference.sums
        up, down = (None, None) if self._sides is None else self._sides.stored()
        return msgspec.msgpack.encode(_State(VERSION, sums, self._normal, up, down), enc_hook=np.ndarray.tolist)

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
        self._normal = state.normal
        self._sides = None if state.up is None else Sides(state.up, state.down, self._budget)


class _State(Struct, frozen=True):
    version: int
    reference: Sums | None
    normal: Normal | None
    up: Side | None
    down: Side | None


def update_each(detectors: Sequence[EDetector], values: Sequence[Floats], times: Sequence[Floats]) -> list[list[Alarm]]:
    """Let each detector take losses of its own, finite and in [0, 1]; return the alarms of each.

    The same as :meth:`EDetector.update` one after the other, but those that watch are worked out at once.
    """
    alarms: list[list[Alarm]] = [[] for _ in detectors]
    done = [0] * len(detectors)
    while True:
        turns = [place for place, rows in enumerate(values) if done[place] < len(rows)]
        if not turns:
            return alarms
        rows = []
        for place in turns:
            start = done[place]
            rest = values[place][start:]
            rows.append(rest[: detectors[place]._collect(rest, times[place][start:])])
        watching = [
            (place, sides, part)
            for place, part in zip(turns, rows, strict=True)
            if (sides := detectors[place]._sides) is not None
        ]
        crossings = advance([sides for _, sides, _ in watching], [part for _, _, part in watching])
        found = {place: crossing for (place, _, _), crossing in zip(watching, crossings, strict=True)}
        for place, part in zip(turns, rows, strict=True):
            start, count = done[place], len(part)
            alarm = detectors[place]._conclude(found.get(place))
            if alarm is not None:
                count = alarm.row + 1
                alarms[place].append(replace(alarm, row=start + alarm.row))
            done[place] = start + count
