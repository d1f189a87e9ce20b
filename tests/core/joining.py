"""What the joiner's tests share: short ways to say things, a driver that restarts, and a slow oracle."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamapp.core.events import SOURCES, Outcome, Prediction, Verdict
from streamapp.core.join import InputBatch, Joiner, JoinOutput, Limits
from streamapp.core.settings import Assume, ModelSettings, Seconds, Settings
from streamapp.errors import DecodeError

SHORT = ModelSettings(outcome_window=Seconds(10), grace=Seconds(5), remember=Seconds(4))
SETTINGS = Settings(
    defaults=SHORT,
    models={
        "long": ModelSettings(outcome_window=Seconds(20), grace=Seconds(2), remember=Seconds(10)),
        "assumed": ModelSettings(
            outcome_window=Seconds(6), grace=Seconds(5), remember=Seconds(4), on_expiry=Assume(assume=False)
        ),
    },
)

LIMITS = Limits()


def predict(prediction_id: str, ts: float, group: str = "g", model: str = "m", prediction: Any = True, **more: Any):
    return Prediction(
        prediction_id=prediction_id, model=model, ts=float(ts), group=group, prediction=prediction, **more
    )


def observe(prediction_id: str, ts: float, outcome: Any = True, **more: Any):
    return Outcome(prediction_id=prediction_id, ts=float(ts), outcome=outcome, **more)


@dataclass
class Log:
    """One partition: (timestamp, event) by offset."""

    records: list[tuple[float, Any]]
    first: int = 0
    """Offset of the first record."""
    gap: int = 1
    """Distance of two offsets."""

    def offset(self, place: int) -> int:
        return self.first + place * self.gap

    def place(self, offset: int) -> int:
        return max(0, -(-(offset - self.first) // self.gap))

    def batch(self, start: int, end: int) -> InputBatch:
        records = self.records[start:end]
        return InputBatch(
            offsets=[self.offset(place) for place in range(start, start + len(records))],
            timestamps=[timestamp for timestamp, _ in records],
            keys=[None if isinstance(e, DecodeError) else e.prediction_id.encode() for _, e in records],
            values=[repr(event).encode() for _, event in records],
            events=[event for _, event in records],
        )

    def log_times(self) -> list[float]:
        times = np.maximum.accumulate([0.0, *(timestamp for timestamp, _ in self.records)])
        return times[1:].tolist()


@dataclass
class Run:
    """Everything that came out of a joiner, and its checkpoint."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    dead: list[tuple[Any, ...]] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)
    rejected: Counter = field(default_factory=Counter)
    arrived: Counter = field(default_factory=Counter)
    entries: dict[bytes, bytes] = field(default_factory=dict)
    pending: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, output: JoinOutput) -> None:
        for batch in output.rows:
            self.rows.setdefault(batch.model, []).extend(rows_of(batch))
        self.dead += [(d.topic, d.offset, d.reason, d.value, d.key) for d in output.dead_letters]
        self.counts.update(output.counts)
        self.rejected.update(output.rejected)
        for arrivals in output.arrivals:
            for group in arrivals.groups:
                self.arrived[arrivals.model, group.group] += group.predictions
        for key, value in output.state.items():
            assert value is None or len(value) < 512 * 1024
            if value is None:
                del self.entries[key]
            else:
                self.entries[key] = value
        self.pending = output.pending

    def all_rows(self) -> list[tuple[Any, ...]]:
        return sorted(row for rows in self.rows.values() for row in rows)


def rows_of(batch) -> list[tuple[Any, ...]]:
    """Rows as tuples that compare, nan as None."""

    def number(value):
        return None if np.isnan(value) else float(value)

    return [
        (
            int(batch.offset[i]),
            batch.model,
            batch.group[i],
            Verdict(int(batch.verdict[i])).name,
            int(batch.outcome_offset[i]),
            number(batch.ts[i]),
            number(batch.log_time[i]),
            number(batch.outcome_ts[i]),
            number(batch.outcome_log_time[i]),
            repr(batch.outcome[i]),
            SOURCES[batch.outcome_source[i]],
        )
        for i in range(len(batch))
    ]


def restore(
    run: Run, predictions: Log, outcomes: Log, *, settings=SETTINGS, step: int = 3, room: float = math.inf, **options
) -> Joiner:
    """Bring a joiner back from the checkpoint of a run, as a shell does."""
    joiner = Joiner.restore(0, settings, dict(run.entries), **options)
    joiner.room = room
    for log, base, applied, needs, reread in (
        (
            predictions,
            joiner.predictions_base,
            joiner.predictions_applied,
            joiner.needs_predictions,
            joiner.reread_predictions,
        ),
        (outcomes, joiner.outcomes_base, joiner.outcomes_applied, joiner.needs_outcomes, joiner.reread_outcomes),
    ):
        end = log.place(applied)
        for start in range(log.place(base), end, step):
            batch = log.batch(start, min(start + step, end))
            needed = needs(np.asarray(batch.offsets)).tolist()
            batch.events = [event if need else None for event, need in zip(batch.events, needed, strict=True)]
            reread(batch)
    joiner.restored()
    return joiner


def whole(predictions: Log, outcomes: Log, end: float, settings=SETTINGS) -> tuple[Run, Joiner]:
    """Run both logs through at once."""
    joiner, run = Joiner(0, settings), Run()
    joiner.predictions(predictions.batch(0, len(predictions.records)))
    joiner.outcomes(outcomes.batch(0, len(outcomes.records)))
    joiner.advance(predictions=end, outcomes=end)
    run.add(joiner.take())
    return run, joiner


class Names:
    """Which names are taken, said of all that ever were: nothing is dropped, whoever asks looks whether it counts."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self.settings = settings
        self.limits = limits
        self.models: dict[str, float] = {}
        """Log time of the last prediction."""
        self.groups: dict[str, dict[str, float]] = {}

    def current(self, model: str, last: float, now: float) -> bool:
        s = self.settings.of(model)
        patience = max(s.forget_after, s.outcome_window + s.grace + 300 + 1)
        step = patience // 16
        return now <= math.ceil(last / step) * step + patience

    def counted(self, model: str, group: str, now: float) -> tuple[str, str]:
        here = {name for name, last in self.models.items() if self.current(name, last, now)}
        named = {"other", *self.settings.models}
        if model not in here and model not in named and len(here - named) >= self.limits.models:
            model = "other"
        if model not in here:
            self.groups[model] = {}
        self.models[model] = now
        groups = self.groups[model]
        here = {name for name, last in groups.items() if self.current(model, last, now)}
        planned = {"other", self.settings.of(model).control, *self.settings.of(model).groups}
        if group not in here and group not in planned and len(here - planned) >= self.limits.groups:
            group = "other"
        groups[group] = now
        return model, group

    def taken(self, now: float) -> set[tuple[str, str]]:
        """All but the group `other`, which needs no place."""
        return {
            (model, group)
            for model, groups in self.groups.items()
            for group, last in groups.items()
            if self.current(model, self.models[model], now) and self.current(model, last, now) and group != "other"
        }


def oracle(predictions: Log, outcomes: Log, end: float, settings=SETTINGS, limits=LIMITS, names=None):
    """Say what becomes of everything, by looking through all there is at every step.

    Returns rows (as Run.all_rows), counts, pending, and the offsets of dead letters by reason.
    """
    events = [
        (log_time, topic, log.offset(place), event)
        for topic, log in enumerate((predictions, outcomes))
        for place, (log_time, (_, event)) in enumerate(zip(log.log_times(), log.records, strict=True))
    ]
    events.sort(key=lambda e: e[:3])
    patience = max(s.grace for s in (settings.defaults, *settings.models.values()))
    state: list[dict[str, Any]] = []  # accepted predictions
    early: list[dict[str, Any]] = []
    counts: Counter = Counter()
    dead: Counter = Counter()
    topics = ("predictions", "outcomes")
    roster = names or Names(settings, limits)

    def reject(topic, offset, reason):
        counts[topics[topic], "rejected"] += 1
        dead[topics[topic], offset, reason] += 1

    def pass_time(now):
        for p in sorted((p for p in state if p["row"] is None and p["deadline"] < now), key=lambda p: p["order"]):
            event, s = p["event"], p["settings"]
            if s.on_expiry == "drop":
                p["row"] = ("EXPIRED", -1, None, None, "None", "observed")
            else:
                p["row"] = (
                    "JOINED",
                    -1,
                    event.ts + s.outcome_window,
                    p["deadline"],
                    repr(s.on_expiry.assume),
                    "assumed",
                )
            p["horizon"] = p["deadline"] + s.remember
        for o in [o for o in early if o["log_time"] + patience < now]:
            early.remove(o)
            counts["outcomes", "duplicate" if o["further"] else "unmatched"] += 1

    def problem(p, o):
        if o.ts < p["event"].ts - p["settings"].grace:
            return "before_prediction"
        if o.ts > p["event"].ts + p["settings"].outcome_window:
            return "late"
        kinds = [
            "bool" if isinstance(v, bool) else "str" if isinstance(v, str) else "number"
            for v in (p["event"].prediction, o.outcome)
            if v is not None
        ]
        return "type_mismatch" if len(set(kinds)) > 1 else None

    def join(p, o, offset, log_time):
        verdict = "CENSORED" if o.status else "JOINED"
        p["row"] = (verdict, offset, o.ts, log_time, repr(o.outcome), o.source)
        p["horizon"] = max(p["log_time"], log_time) + p["settings"].remember
        p["outcome"] = o

    def settle(o, offset, log_time):
        same = [p for p in state if p["event"].prediction_id == o.prediction_id]
        pending = [p for p in same if p["row"] is None]
        taking = [p for p in pending if problem(p, o) is None]
        if taking:
            for p in taking:
                join(p, o, offset, log_time)
            counts["outcomes", "accepted"] += 1
            return
        known = [p for p in same if p["row"] is not None and p["horizon"] >= log_time]
        joined = [p["outcome"].revision for p in known if p["row"][1] >= 0]
        if joined:
            counts["outcomes", "late" if o.revision > max(joined) else "duplicate"] += 1
        elif pending:
            reason = problem(pending[0], o)
            if reason == "type_mismatch":
                reject(1, offset, reason)
            elif pending[0]["refused"]:
                counts["outcomes", "duplicate"] += 1
            else:
                for p in pending:
                    p["refused"] = True
                if reason == "late":
                    counts["outcomes", "late"] += 1
                else:
                    reject(1, offset, reason)
        elif known:
            counts["outcomes", "late"] += 1
        else:
            further = any(e["event"].prediction_id == o.prediction_id for e in early)
            early.append({"event": o, "offset": offset, "log_time": log_time, "further": further})

    for log_time, topic, offset, event in events:
        pass_time(log_time)
        counts[topics[topic], "read"] += 1
        if isinstance(event, DecodeError):
            reject(topic, offset, event.reason)
        elif event.ts > log_time + 300:
            reject(topic, offset, "future")
        elif topic == 1:
            settle(event, offset, log_time)
        else:
            same = [p for p in state if p["event"].prediction_id == event.prediction_id]
            if any(p["event"].group == event.group and (p["row"] is None or p["horizon"] >= log_time) for p in same):
                counts["predictions", "duplicate"] += 1
                continue
            counts["predictions", "accepted"] += 1
            called = roster.counted(event.model, event.group, log_time)
            counts["predictions", "other_model"] += called[0] != event.model
            counts["predictions", "other_group"] += called[1] != event.group
            s = settings.of(called[0])
            deadline = max(event.ts, log_time) + s.outcome_window + s.grace
            p = {
                "event": event, "offset": offset, "log_time": log_time, "settings": s, "deadline": deadline,
                "order": (deadline, offset), "row": None, "refused": False, "outcome": None, "horizon": None,
                "called": called,
            }  # fmt: skip
            state.append(p)
            shadows = [q for q in same if q["outcome"] is not None and q["horizon"] >= log_time]
            for q in sorted(shadows, key=lambda q: q["row"][1]):
                if problem(p, q["outcome"]) is None:
                    join(p, q["outcome"], q["row"][1], q["row"][3])
                    break
            for o in [o for o in early if o["event"].prediction_id == event.prediction_id]:
                early.remove(o)
                settle(o["event"], o["offset"], o["log_time"])
    pass_time(end)
    rows = sorted(
        (
            p["offset"],
            *p["called"],
            p["row"][0],
            p["row"][1],
            p["event"].ts,
            p["log_time"],
            *p["row"][2:],
        )
        for p in state
        if p["row"] is not None
    )
    waiting = Counter(p["called"] for p in state if p["row"] is None)
    counts["outcomes", "waiting"] = len(early)
    return rows, +counts, dict(waiting), dead
