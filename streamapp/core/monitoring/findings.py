"""What the rows of a model's groups show at once: alarms of detectors, rows that do not fit, new versions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Bytes, Floats, Ints
from streamapp.core.losses import OWN, configured
from streamapp.core.monitoring.group import Group
from streamapp.core.monitoring.judging import REASONS
from streamapp.core.monitoring.rows import ByGroup, Rows, names_at
from streamapp.core.monitoring.versions import Stretch
from streamapp.core.monitoring.watch import Finding, Shown, Watch, bounded, show


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """Rows of a group do not fit the task; the first of them."""

    reason: str
    at: float
    """Its event time."""


class Found(NamedTuple):
    """Something that was found."""

    row: int
    """The row that shows it."""
    message: int
    """Place among the messages that the rows come from."""
    group: Group
    what: Finding | Complaint
    fed: int = 0
    """Losses that the group's detectors had seen at the end of the message."""


def look(groups: Sequence[Group], rows: Rows) -> tuple[Floats, list[Found]]:
    """Look at rows of groups that have a loss, and of versions that have answered before.

    Args:
        groups: By number.
        rows: The rows.

    Returns:
        The configured losses, shape (n,), nan where there is none; and what was found, in order of row.
    """
    by_group = ByGroup(rows.group, len(groups))
    losses = _losses(groups, by_group, rows)
    found: list[Found] = []
    if rows.unfit:
        for number, part in by_group.slices():
            own = by_group.rows(part)
            found += _complain(groups[number], rows, own, rows.reason[own])
    told = telling(rows, losses)
    places: Ints | None = None
    lost, ts = losses, rows.ts
    if not np.logical_and.reduce(told):
        places = np.flatnonzero(told)
        lost, ts = losses[places], ts[places]
        by_group = ByGroup(rows.group[places], len(groups))
    watches, parts, shown = [], by_group.slices(), []
    for number, _ in parts:
        begun = groups[number].begun
        assert begun is not None
        watches.append(begun.watch)
    lost, ts = by_group.sorted(lost), by_group.sorted(ts)
    values = bounded(lost)
    for watch, (_, part) in zip(watches, parts, strict=True):
        if watch.plain:
            shown.append(Shown(values[part], ts[part]))
        else:
            own = by_group.rows(part) if places is None else places[by_group.rows(part)]
            shown.append(watch.map(lost[part], rows.block[OWN, own], ts[part]))
    for watch, (number, part), findings in zip(watches, parts, show(watches, shown), strict=True):
        if findings:
            own = by_group.rows(part) if places is None else places[by_group.rows(part)]
            found += _located(groups[number], watch, rows, own, findings)
    found.sort(key=lambda one: one.row)  # rows of two groups are never the same
    return losses, found


def telling(rows: Rows, losses: Floats) -> NDArray[np.bool_]:
    """Return which rows tell something of the version that answers, given their losses."""
    finite = np.isfinite(losses)
    return finite if rows.older is None else finite & ~rows.older


def look_closely(groups: Sequence[Group], rows: Rows) -> tuple[Floats, list[Found]]:
    """Look at the rows of one message, where a version may be new, or where groups may have no loss yet.

    The retrain policies and tallies of versions hear of them here. The rest is as for :func:`look`.
    """
    by_group = ByGroup(rows.group, len(groups))
    losses = _losses(groups, by_group, rows)
    found: list[Found] = []
    for number, part in by_group.slices():
        group, own = groups[number], by_group.rows(part)
        ts, lost, reason = rows.ts[own], losses[own], rows.reason[own]
        version = names_at(rows.version, own)
        seen: list[Found] = []
        for stretch in group.versions.stretches(version, ts, rows.log_time[own]):
            if stretch.changed:
                if group.begun is not None:
                    group.begun.watch.reset()
                group.complained.clear()
                seen = [_stale(one) for one in seen]
            inside = slice(stretch.start, stretch.end)
            if rows.unfit:
                seen += _complain(group, rows, own[inside], reason[inside])
            seen += _show(group, rows, own, lost, stretch)
        group.versions.add(version, ts, lost)
        found += seen
    found.sort(key=lambda one: one.row)
    return losses, found


def _losses(groups: Sequence[Group], by_group: ByGroup, rows: Rows) -> Floats:
    begun = [groups[number].begun for number in by_group.present]
    first = begun[0] if begun else None
    if first is not None and all(one is not None and one.loss == first.loss for one in begun):
        return configured(first.task, first.loss, rows.block, owned=rows.owned)
    losses = np.full(len(rows), np.nan)
    for (_, part), one in zip(by_group.slices(), begun, strict=True):
        if one is not None:
            own = by_group.rows(part)
            losses[own] = configured(one.task, one.loss, rows.block[:, own], owned=rows.owned)
    return losses


def _complain(group: Group, rows: Rows, own: Ints, reason: Bytes) -> list[Found]:
    """Return what is new about rows that do not fit, all of one group and version."""
    group.unscorable += int(np.count_nonzero(reason))
    complaints = []
    for code, first in zip(*np.unique(reason, return_index=True), strict=True):
        word = REASONS[int(code)]
        if word and word not in group.complained:
            group.complained.add(word)
            row = int(own[first])
            what = Complaint(reason=word, at=float(rows.ts[row]))
            complaints.append(Found(row, _message(rows, row), group, what))
    return complaints


def _show(group: Group, rows: Rows, own: Ints, lost: Floats, stretch: Stretch) -> list[Found]:
    """Let the detectors of one group see what belongs to the version that answers."""
    if group.begun is None:
        return []
    chosen = np.flatnonzero(stretch.present) + stretch.start
    chosen = chosen[np.isfinite(lost[chosen])]
    if not len(chosen):
        return []
    own, lost = own[chosen], lost[chosen]
    ts = rows.ts[own]
    total = float(np.add.reduceat(lost, [0])[0])  # as sums of several messages are made at once
    group.policy.rows(rows.offsets[0], len(ts), float(ts.min()), float(ts.max()), total, stretch.version)
    watch = group.begun.watch
    return _located(group, watch, rows, own, watch.feed(lost, rows.block[OWN, own], ts))


def _located(group: Group, watch: Watch, rows: Rows, own: Ints, findings: list[Finding]) -> list[Found]:
    """Say where findings lie, given the rows that the detectors have just seen."""
    found = []
    for finding in findings:
        row = int(own[finding.row])
        message = _message(rows, row)
        later = len(own) - int(own.searchsorted(rows.ends[message]))
        found.append(Found(row, message, group, finding, watch.fed - later))
    return found


def _message(rows: Rows, row: int) -> int:
    return int(np.searchsorted(rows.ends, row, side="right"))


def _stale(found: Found) -> Found:
    return found._replace(what=replace(found.what, stale=True)) if isinstance(found.what, Finding) else found
