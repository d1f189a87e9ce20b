"""What is said of a finding: signals, and what the retrain policy hears of them."""

import msgspec

from streamapp.core.events import Position, Signal, SignalKind
from streamapp.core.monitoring.findings import Complaint, Found
from streamapp.core.monitoring.group import Group
from streamapp.core.monitoring.naming import Naming
from streamapp.core.monitoring.watch import Finding
from streamapp.core.settings import Task


def said(found: Found, task: Task | None, model: str, position: Position, naming: Naming) -> list[Signal]:
    """Return what is said of something that was found, and let the group's policy hear it.

    Args:
        found: What.
        task: The model's.
        model: Its name.
        position: Of the message.
        naming: Gives ids.
    """
    if isinstance(found.what, Complaint):
        return [_quality(found.what, task, model, found.group, position, naming)]
    signals = _drift(found.what, model, found.group, position, naming)
    if not found.what.stale:
        finding, since = found.what, max(found.fed - found.what.start, 1)
        found.group.policy.ask(signals[-1], rows_since_change=since, before=finding.before, after=finding.after)
    return signals


def _drift(finding: Finding, model: str, group: Group, position: Position, naming: Naming) -> list[Signal]:
    """Return a warning, and where the loss rose beyond doubt, that something must be done."""
    alarm = finding.alarm
    up = alarm.direction == "up"
    kind: SignalKind = "drift" if up else "recovery"
    warning = Signal(
        id=naming.next(group.name, kind, finding.detector),
        model=model,
        group=group.name,
        kind=kind,
        severity="warn",
        detector=finding.detector,
        at=finding.at,
        emitted_at=position.timestamp,
        value=finding.after,
        reference=finding.before,
        direction=alarm.direction,
        evidence={
            **alarm.evidence,
            "statistic": alarm.statistic,
            "threshold": alarm.threshold,
            "n": finding.start + alarm.rows,
            "rows": alarm.rows,
            "from": finding.since,
        },
    )
    signals = [warning]
    if up and alarm.severity == "act":
        signals.append(
            msgspec.structs.replace(
                warning,
                id=naming.next(group.name, kind, "policy"),
                severity="act",
                detector="policy",
                evidence={**warning.evidence, "signal": warning.id, "detector": finding.detector},
            )
        )
    return signals


def _quality(
    complaint: Complaint, task: Task | None, model: str, group: Group, position: Position, naming: Naming
) -> Signal:
    return Signal(
        id=naming.next(group.name, "data_quality", "unscorable"),
        model=model,
        group=group.name,
        kind="data_quality",
        severity="warn",
        detector="unscorable",
        at=complaint.at,
        emitted_at=position.timestamp,
        value=None,
        reference=None,
        direction=None,
        evidence={"reason": complaint.reason, "task": task},
    )
