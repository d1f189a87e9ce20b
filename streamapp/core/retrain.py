"""When to ask for training, and from which rows."""

import math
from collections.abc import Callable

import msgspec
from msgspec import Struct, field

from streamapp.core.events import BeforeAfter, Position, RetrainRequest, ScoredRange, Signal, Window
from streamapp.core.settings import RetrainSettings
from streamapp.errors import CheckpointError

STRETCHES = 512
"""Stretches of messages that are remembered at most."""
RECENT = 256
"""Messages that are remembered one by one at least."""
SHARE = 0.25
"""Of the rows after them: so many rows of older messages at most are joined, so a request has few rows too many."""
SIGNALS = 100
"""Signals that one request names at most, the newest."""
VERSIONS = 16
"""Versions that are remembered, so that a late row of an old one does not look like a new one."""
FORMAT = 1


class _Stretch(Struct, array_like=True):
    """Rows of the group in ``scored`` messages that follow each other."""

    offset: int
    """Of the first of these messages."""
    rows: int
    first_ts: float
    last_ts: float
    loss: float
    """Sum."""


class _Ask(Struct):
    signals: list[str]
    detectors: list[str]
    reason: str
    change: int
    """Rows of the group before the estimated change."""
    before: float | None
    after: float | None


class _State(Struct):
    format: int = FORMAT
    versions: list[str | None] = field(default_factory=list)
    """Seen, the present one last."""
    total: int = 0
    """Rows of the present version."""
    stretches: list[_Stretch] = field(default_factory=list)
    ask: _Ask | None = None
    deadline: float | None = None
    """Of the open request."""
    ended: bool = False
    """The open request ended since the last :meth:`RetrainPolicy.advance`."""
    quiet_until: float = -math.inf


class RetrainPolicy:
    """Turn signals about one model and group into requests: one at a time, with rows enough to learn from.

    A signal is held until ``minimum_rows`` rows lie since the change it estimates, no request is open, and
    ``cooldown`` has passed since the last one ended. A request ends when the group answers with a version never seen
    before, or at its deadline in log time. Either way, a signal asks once.

    Call :meth:`rows` for what a ``scored`` message brought, then :meth:`ask`, then :meth:`advance`.
    """

    def __init__(self, model: str, group: str, settings: RetrainSettings) -> None:
        self._model = model
        self._group = group
        self._settings = settings
        self._state = _State()

    @property
    def deadline(self) -> float | None:
        """Log time at which the open request is given up, None while none is open."""
        return self._state.deadline

    @property
    def idle(self) -> bool:
        """Whether :meth:`advance` has nothing to do until the next :meth:`ask`."""
        return self._state.ask is None and self._state.deadline is None and not self._state.ended

    def rows(
        self, offset: int, count: int, first_ts: float, last_ts: float, loss_sum: float, version: str | None
    ) -> None:
        """Take note of joined rows of this group.

        Args:
            offset: Of the ``scored`` message; never lower than before.
            count: How many rows.
            first_ts: Lowest event time of them.
            last_ts: Highest.
            loss_sum: Sum of their losses; not finite where it is unknown.
            version: Of the model that answered; a message with several versions is told in several calls.
        """
        if count <= 0:
            return
        self._version(version)
        state = self._state
        state.total += count
        last = state.stretches[-1] if state.stretches else None
        if last is not None and last.offset == offset:
            last.rows += count
            last.first_ts, last.last_ts = min(last.first_ts, first_ts), max(last.last_ts, last_ts)
            last.loss += loss_sum
            return
        state.stretches.append(_Stretch(offset, count, first_ts, last_ts, loss_sum))
        if len(state.stretches) > STRETCHES:
            state.stretches = _shortened(state.stretches)

    def ask(self, signal: Signal, *, rows_since_change: int, before: float | None, after: float | None) -> None:
        """Take a signal: one that the settings name asks for training.

        A recovery takes back what was asked, if the same detector says so: others may see one in the noise.

        The newest signal says where the change lies: rows before a second change would teach what no longer holds.

        Args:
            signal: Of this model and group.
            rows_since_change: Rows of this group since the estimated change, counted back from the last one given to
                :meth:`rows`.
            before: Mean loss before the change, used where the losses of the rows are unknown.
            after: Mean loss since.
        """
        state = self._state
        if signal.kind == "recovery" and state.ask is not None and signal.detector in state.ask.detectors:
            state.ask = None
        if signal.severity != "act" or signal.kind not in self._settings.when:
            return
        # An act is a signal of its own, whose evidence names the detector behind it.
        detector = str(signal.evidence.get("detector", signal.detector))
        signals = [*(state.ask.signals if state.ask else ()), signal.id][-SIGNALS:]
        detectors = sorted({*(state.ask.detectors if state.ask else ()), detector})
        change = max(0, state.total - max(1, rows_since_change))
        state.ask = _Ask(signals, detectors, signal.kind, change, before, after)

    def advance(self, clock: float, position: Position, request_id: Callable[[], str]) -> RetrainRequest | None:
        """Move log time to *clock*, and return a request if it is time for one.

        Args:
            clock: Log time; nothing happens while it is not finite.
            position: Of the ``scored`` message that is being applied.
            request_id: Called once if a request is made.
        """
        state = self._state
        if not math.isfinite(clock):
            return None
        if state.ended:
            state.ended, state.quiet_until = False, clock + self._settings.cooldown
        elif state.deadline is not None and clock >= state.deadline:
            state.quiet_until, state.deadline = state.deadline + self._settings.cooldown, None
        ask = state.ask
        if ask is None or state.deadline is not None or clock < state.quiet_until:
            return None
        if state.total - ask.change < max(1, self._settings.minimum_rows):
            return None
        state.ask = None
        state.deadline = clock + self._settings.deadline
        return self._request(ask, state.deadline, position, request_id())

    def _request(self, ask: _Ask, deadline: float, position: Position, name: str) -> RetrainRequest:
        since = self._since(ask.change)
        earlier = self._state.stretches[: len(self._state.stretches) - len(since)]
        to = max(stretch.last_ts for stretch in since)
        return RetrainRequest(
            id=name,
            model=self._model,
            group=self._group,
            reason=ask.reason,
            signals=tuple(ask.signals),
            at=to,
            window=Window(
                from_=min(stretch.first_ts for stretch in since), to=to, rows=sum(stretch.rows for stretch in since)
            ),
            scored=ScoredRange(partition=position.partition, from_=since[0].offset, cause=position.offset),
            metrics=BeforeAfter(before=_mean(earlier, ask.before), after=_mean(since, ask.after)),
            deadline=deadline,
        )

    def _since(self, change: int) -> list[_Stretch]:
        """Return the stretches from the one in which the change lies."""
        stretches = self._state.stretches
        before = self._state.total
        for index in range(len(stretches) - 1, -1, -1):
            before -= stretches[index].rows
            if before <= change:
                return stretches[index:]
        return stretches

    def _version(self, version: str | None) -> None:
        state = self._state
        if version in state.versions:
            return
        if state.versions:
            state.total, state.stretches, state.ask = 0, [], None
            state.ended = state.ended or state.deadline is not None
            state.deadline = None
        state.versions = [*state.versions, version][-VERSIONS:]

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return msgspec.msgpack.encode(self._state)

    @classmethod
    def restore(cls, model: str, group: str, settings: RetrainSettings, data: bytes) -> "RetrainPolicy":
        """Return the policy whose :meth:`snapshot` was *data*, with the settings of now.

        Raises:
            CheckpointError: The bytes are no such state.
        """
        policy = cls(model, group, settings)
        try:
            policy._state = msgspec.msgpack.decode(data, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"retrain policy of {model}/{group} cannot be read: {error}") from error
        if policy._state.format != FORMAT:
            raise CheckpointError(
                f"retrain policy of {model}/{group} has format {policy._state.format}, this streamapp reads {FORMAT}"
            )
        return policy


def _shortened(stretches: list[_Stretch]) -> list[_Stretch]:
    """Join older stretches, so that their number grows with the logarithm of the rows."""
    after = sum(stretch.rows for stretch in stretches[-RECENT:])
    older: list[_Stretch] = []
    """Newest first."""
    for stretch in reversed(stretches[:-RECENT]):
        if older and stretch.rows + older[-1].rows <= SHARE * after:
            older[-1] = _joined(stretch, older[-1])
            continue
        after += older[-1].rows if older else 0
        older.append(stretch)
    return older[::-1] + stretches[-RECENT:]


def _joined(one: _Stretch, other: _Stretch) -> _Stretch:
    return _Stretch(
        one.offset,
        one.rows + other.rows,
        min(one.first_ts, other.first_ts),
        max(one.last_ts, other.last_ts),
        one.loss + other.loss,
    )


def _mean(stretches: list[_Stretch], otherwise: float | None) -> float | None:
    rows = sum(stretch.rows for stretch in stretches)
    loss = sum(stretch.loss for stretch in stretches)
    return loss / rows if rows and math.isfinite(loss) else otherwise
