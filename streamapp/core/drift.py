"""Drift detectors by name, behind one small protocol."""

import inspect
import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from river import drift
from river.drift import binary

from streamapp.core import pickling
from streamapp.core.detection import esr
from streamapp.core.detection.alarm import Alarm, Detector, State
from streamapp.core.detection.esr import EDetector
from streamapp.core.events import Floats
from streamapp.core.settings import ModelSettings
from streamapp.errors import CheckpointError, ConfigError

__all__ = ["DETECTORS", "Alarm", "Detector", "EDetector", "RiverDetector", "build", "restore", "try_out", "update_each"]

BINARY = {kind.__name__.lower(): kind for kind in (binary.DDM, binary.EDDM, binary.FHDDM, binary.HDDMA, binary.HDDMW)}
"""River's detectors that take an error or none."""
REAL = {
    kind.__name__.lower(): kind
    for kind in (drift.ADWIN, drift.DummyDriftDetector, drift.KSWIN, drift.NoDrift, drift.PageHinkley)
}
"""River's detectors that take any loss."""
DETECTORS = tuple(sorted({EDetector.name, *BINARY, *REAL}))
"""Names that :func:`build` knows."""

ERROR_AT = 0.25
"""Loss from which a row is an error to a binary detector.

It is exact for 0/1 losses. A wrong answer has at least this Brier loss: with two classes an answer decided at 0.5 is
wrong exactly from here on.
"""
RECENT = 512
"""Losses among which the change is looked for when the detector does not say where it lies."""
VERSION = 1
_TRIAL = np.concatenate([np.tile([0.0, 0.1, 0.3, 0.0], 50), np.tile([1.0, 0.6, 0.0, 0.9], 25)])
"""Losses that rise, so that most detectors also raise an alarm."""


def build(spec: str | Mapping[str, Any], settings: ModelSettings) -> Detector:
    """Return a new detector.

    Args:
        spec: A name of :data:`DETECTORS` (case, ``-`` and ``_`` do not count), or a table with ``name`` and the
            detector's parameters. River's binary detectors also take ``error_at``, the loss that makes an error.
        settings: Of the model; e-sr takes reference, cycle and budget from it.

    Raises:
        ConfigError: No such detector, or a parameter that it does not take.

    >>> build("page-hinkley", ModelSettings()).name
    'pagehinkley'
    """
    parameters = {} if isinstance(spec, str) else {key: value for key, value in spec.items() if key != "name"}
    given = _given(spec)
    name = given.lower().replace("_", "").replace("-", "") if isinstance(given, str) else ""
    try:
        if name == "esr":
            return EDetector(settings, **parameters)
        if name in REAL or name in BINARY:
            return RiverDetector(name, **parameters)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"detectors: {given}: {error}") from error
    raise ConfigError(f"detectors: expected one of {', '.join(DETECTORS)}, got {given!r}")


def try_out(spec: str | Mapping[str, Any], settings: ModelSettings) -> None:
    """Let a detector that is thrown away take some losses: parameters that River takes may fail on the first rows.

    Args:
        spec: As for :func:`build`.
        settings: Of the model.

    Raises:
        ConfigError: As for :func:`build`; or it fails on losses, or has a state that cannot be stored.
    """
    detector = build(spec, settings)
    try:
        detector.update(_TRIAL, np.arange(float(len(_TRIAL))))
        _ = detector.score, detector.threshold, detector.snapshot()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # also what code below Python panics with
        raise ConfigError(
            f"detectors: {_given(spec)}: fails with these parameters: {type(error).__name__}: {error}"
        ) from error


def restore(spec: str | Mapping[str, Any], settings: ModelSettings, data: bytes) -> Detector:
    """Return the detector whose :meth:`Detector.snapshot` was *data*.

    A River detector of other parameters than *spec* now has is not continued: it begins anew, as one that was just
    configured does. e-sr keeps its reference and takes the budget of now.

    Raises:
        CheckpointError: The bytes are no state of such a detector.
        ConfigError: As for :func:`build`.
    """
    detector = build(spec, settings)
    assert isinstance(detector, EDetector | RiverDetector)
    detector.load(data)
    return detector


def update_each(
    detectors: Sequence[Detector], losses: Sequence[Floats], times: Sequence[Floats], values: Sequence[list[float]]
) -> list[list[Alarm]]:
    """Let each detector take losses of its own; return the alarms of each.

    The same as :meth:`Detector.update` one after the other, but e-detectors that watch are worked out at once.

    Args:
        detectors: Of one specification, in several groups.
        losses: All of them finite and in [0, 1].
        times: Event times.
        values: The losses as lists.
    """
    together = [detector for detector in detectors if isinstance(detector, EDetector)]
    if len(together) == len(detectors):
        return esr.update_each(together, losses, times)
    return [
        detector.take(values[place])
        if isinstance(detector, RiverDetector)
        else detector.update(losses[place], times[place])
        for place, detector in enumerate(detectors)
    ]


class RiverDetector:
    """A detector of River's ``drift`` or ``drift.binary``; its alarms are warnings.

    River says that something changed. What changed, and since when, is estimated here: the change is the cut through
    the last 512 losses that separates the means best. (ADWIN's own window is no estimate of it: at a rise from .1 to
    .35 it was found 104 rows later, and 256 to 2592 rows were kept, 8 streams.) FHDDM takes 1 for a right answer,
    whatever its documentation says, and gets that. A seed that is not given is 0, since a restored monitor must raise
    the same alarms.

    Args:
        name: Class name in lower case.
        error_at: Loss that makes an error, for binary detectors.
        parameters: Of the River class.
    """

    def __init__(self, name: str, *, error_at: float | None = None, **parameters: Any) -> None:
        self.name = name
        self._class = REAL.get(name) or BINARY[name]
        if error_at is not None and name not in BINARY:
            raise TypeError(f"error_at is for binary detectors: {', '.join(sorted(BINARY))}")
        self._error_at = ERROR_AT if error_at is None else float(error_at)
        if _takes_seed(self._class):
            parameters.setdefault("seed", 0)
        self._parameters = parameters
        self.reset()

    def reset(self) -> None:
        """Forget everything: another version answers from now on."""
        self._detector: Any = self._class(**self._parameters)
        self._forget()

    def _forget(self) -> None:
        self._rows = 0
        self._total = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def score(self) -> float | None:
        """ADWIN: mean of its window; PageHinkley: its larger statistic; others: None."""
        if self.name == "adwin":
            return float(self._detector.estimation)
        if self.name == "pagehinkley":
            return _page_hinkley(self._detector)
        return None

    @property
    def threshold(self) -> float | None:
        """Of PageHinkley's score; the others have none."""
        return float(self._detector.threshold) if self.name == "pagehinkley" else None

    @property
    def state(self) -> State:
        """Always watching: these detectors have no reference to wait for."""
        return "watching"

    def update(self, losses: Floats, times: Floats) -> list[Alarm]:
        """Take the next losses; return the alarms in order of row."""
        rows = np.flatnonzero(np.isfinite(losses))
        values = np.clip(losses[rows], 0.0, 1.0).tolist()
        return [_alarm(found, int(rows[found.place])) for found in self._find(values)]

    def take(self, values: list[float]) -> list[Alarm]:
        """Take the next losses, all of them finite and in [0, 1]; the same as :meth:`update`."""
        return [_alarm(found, found.place) for found in self._find(values)]

    def _find(self, values: list[float]) -> "list[_Found]":
        return self._adwin(values) if self.name == "adwin" else self._any(values)

    def _adwin(self, values: list[float]) -> "list[_Found]":
        """Update ADWIN in stretches that end where it looks for a cut: at multiples of its clock, nowhere else."""
        found: list[_Found] = []
        adwin, start, size = self._detector, 0, len(values)
        clock = adwin.clock
        while start < size:
            if adwin.drift_detected:
                adwin._reset()  # what ADWIN.update would do first
                self._forget()
            window = adwin._helper
            update = window.update
            first, cut = start, False
            stop = start + clock - self._rows % clock
            while stop <= size and not cut:
                for _ in map(update, values[start : stop - 1]):
                    pass
                # Until it cuts, its window holds everything since the last alarm.
                total = window.get_total() + values[stop - 1]
                cut = update(values[stop - 1])
                start, stop = stop, stop + clock
            if not cut:
                for _ in map(update, values[start:]):
                    pass
                start, total = size, window.get_total()
            self._rows += start - first
            self._total = total
            self._recent.extend(values[first:start])
            if cut:
                adwin._drift_detected = True
                found.append(self._change(start - 1))
        return found

    def _any(self, values: list[float]) -> "list[_Found]":
        found = []
        detector, recent = self._detector, self._recent
        error_at = self._error_at if self.name in BINARY else None
        inverted = self.name == "fhddm"
        for place, value in enumerate(values):
            detector.update(value if error_at is None else int((value >= error_at) is not inverted))
            self._rows += 1
            self._total += value
            recent.append(value)
            if detector.drift_detected:
                found.append(self._change(place))
                self._forget()
                recent = self._recent
        return found

    def _change(self, place: int) -> "_Found":
        """Cut the recent losses where the means before and after differ most for their sizes."""
        rows, total = self._rows, self._total
        most = min(len(self._recent), rows - 1)
        if most < 1:
            return _Found(place, total / rows, total / rows, rows, 0.0, None)
        after = np.arange(1, most + 1)
        sums = np.add.accumulate(np.array(self._recent)[::-1])[:most]
        difference = sums / after - (total - sums) / (rows - after)
        weighted = np.square(difference) * after * (rows - after)
        weighted[: min(8, most) - 1] = -1.0  # a handful of rows would often look the most different
        best = int(weighted.argmax())
        before = (total - float(sums[best])) / (rows - best - 1)
        statistic = self.score if self.threshold is not None else abs(float(difference[best]))
        return _Found(place, before, float(sums[best]) / (best + 1), best + 1, float(statistic or 0.0), self.threshold)

    def snapshot(self) -> bytes:
        """Return the whole state, with the parameters it belongs to."""
        state = _State(
            version=VERSION,
            spec=self._spec(),
            detector=pickling.dumps(self._detector),
            rows=self._rows,
            total=self._total,
            recent=list(self._recent),
        )
        return msgspec.msgpack.encode(state)

    def load(self, data: bytes) -> None:
        """Take over the state that :meth:`snapshot` returned, unless it belongs to other parameters.

        Raises:
            CheckpointError: The bytes are no such state.
        """
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"state of {self.name} cannot be read: {error}") from error
        if state.version != VERSION:
            raise CheckpointError(f"state of {self.name} has format {state.version}, this streamapp reads {VERSION}")
        if state.spec != self._spec():
            return
        detector = pickling.loads(state.detector)
        if type(detector) is not self._class:
            raise CheckpointError(f"state of {self.name} holds a {type(detector).__name__}")
        self._detector, self._rows, self._total = detector, state.rows, state.total
        self._recent = deque(state.recent, maxlen=RECENT)

    def _spec(self) -> bytes:
        given = (self.name, self._error_at, sorted(self._parameters.items()))
        return msgspec.msgpack.encode(given)


class _Found(NamedTuple):
    """An alarm, with its place among the finite losses."""

    place: int
    before: float
    after: float
    rows: int
    statistic: float
    threshold: float | None


class _State(Struct, frozen=True, kw_only=True):
    version: int
    spec: bytes
    detector: bytes
    rows: int
    total: float
    recent: list[float]


def _given(spec: str | Mapping[str, Any]) -> Any:
    """Return the name in a specification as it was written."""
    return spec if isinstance(spec, str) else spec.get("name")


def _alarm(found: _Found, row: int) -> Alarm:
    direction: Literal["up", "down"] = "up" if found.after > found.before else "down"
    return Alarm(
        row=row,
        direction=direction,
        severity="warn",
        before=found.before,
        after=found.after,
        rows=found.rows,
        statistic=found.statistic,
        threshold=found.threshold,
        evidence={},
    )


@cache
def _takes_seed(kind: type) -> bool:
    """Tell whether a class of River's takes a seed: looked up once, since every new group asks."""
    return "seed" in inspect.signature(kind).parameters


def _page_hinkley(detector: Any) -> float | None:
    """Return how far the sums are from their extremes, which is what PageHinkley tests."""
    rise = detector._sum_increase - detector._min_increase
    fall = detector._max_decrease - detector._sum_decrease
    sides = {"up": (rise,), "down": (fall,), "both": (rise, fall)}[detector.mode]
    largest = float(max(sides))
    return largest if math.isfinite(largest) else None
