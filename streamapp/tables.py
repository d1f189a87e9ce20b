"""A summary as a person reads it on a terminal, and what else standard output takes."""

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_METRICS = {
    "binary": ("accuracy", "brier", "roc_auc"),
    "multiclass": ("accuracy", "macro_f1", "brier"),
    "regression": ("mae", "rmse", "r2"),
}
_COUNTS = ("predictions", "outcomes", "pending", "expired", "censored", "lost", "unscorable")
_NEWEST = 8
"""Events shown of each model."""
_UNDEFINED = "-"


class Terminal(Console):
    """Standard output for tables; it leaves it to the command line what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled."""
        raise


def interactive() -> bool:
    """Tell whether there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty()


def summary_view(summary: Mapping[str, Any], *, newest: int = _NEWEST) -> RenderableType:
    """Return a summary as tables, one for each model, each with what happened below it.

    Args:
        summary: What ``/api/summary`` and ``replay --json`` give, parsed or not yet serialised.
        newest: How many of a model's events are shown; 0: not even that there are some.
    """
    plain: dict[str, Any] = msgspec.to_builtins(summary)
    parts: list[RenderableType] = []
    for name, model in plain.get("models", {}).items():
        parts.append(_groups(name, model))
        parts.extend(_happened(model, newest))
    if not parts:
        parts.append(Text("No model seen yet. A model appears with its first prediction."))
    if events := plain.get("events"):
        parts.append(Text("; ".join(_counts(topic, counts) for topic, counts in events.items()), style="dim"))
    return Group(*parts)


def to_json(value: object) -> str:
    """Return a summary or another report as indented JSON for standard output; undefined numbers are null."""
    return fitting(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def fitting(text: str) -> str:
    """Return JSON as standard output can take it: in ASCII alone, unless it is UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if text.isascii() or encoding.lower().replace("-", "").startswith("utf8"):
        return text
    return "".join(each if each.isascii() else json.dumps(each)[1:-1] for each in text)


def printable(text: str) -> str:
    """Return a name that came over the wire with what a terminal would obey, and what would break the line, escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _groups(name: str, model: Mapping[str, Any]) -> Table:
    """Return a model's groups side by side: a column each, so that they fit a narrow terminal."""
    task = model.get("task") or "task not known yet"
    groups: Mapping[str, Any] = model.get("groups", {})
    reports = list(groups.values())
    table = Table(title=f"{escape(printable(name))} ({task})", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("")
    for group in groups:
        table.add_column(escape(printable(group)), justify="right")
    for key in _COUNTS:
        if key in _COUNTS[:3] or any(report.get(key) for report in reports):
            table.add_row(key, *(f"{report.get(key, 0):,}" for report in reports))
    for metric in _METRICS.get(task, ()):
        table.add_row(metric, *(_number(report.get("metrics", {}).get(metric)) for report in reports))
    table.add_section()
    for baseline in dict.fromkeys(key for report in reports for key in report.get("baselines", {})):
        cells = (_against(report, baseline) for report in reports)
        table.add_row(f"against {escape(baseline)}", *cells)
    if any(report.get("versions") for report in reports):
        table.add_section()
        table.add_row("loss by version", *(_versions(report.get("versions", {})) for report in reports))
    return table


def _against(report: Mapping[str, Any], baseline: str) -> str:
    """Return a baseline's loss, and the skill against it."""
    losses = {loss: value for loss, value in report.get("baselines", {}).get(baseline, {}).items() if loss != "rows"}
    loss = next((name for name in ("brier", "error", "mae") if losses.get(name) is not None), None)
    skill = report.get("skill", {}).get(baseline)
    if loss is None and skill is None:
        return _UNDEFINED
    return f"{loss or ''} {_number(losses.get(loss) if loss else None)}, skill {_skill(skill)}"


def _happened(model: Mapping[str, Any], newest: int) -> Iterator[Text]:
    events = [
        *((one["at"], _signal(one)) for one in model.get("signals", ())),
        *((one["at"], _request(one)) for one in model.get("retrain", ())),
        *((one["at"], _update(one)) for one in model.get("model_updates", ())),
    ]
    events.sort(key=lambda event: event[0])
    if newest == 0:
        return
    if len(events) > newest:
        yield Text(f"  … {len(events) - newest} earlier", style="dim")
    for at, text in events[-newest:]:
        yield Text.assemble((f"  {moment(at)}  ", "dim"), text)


def describe(event: Mapping[str, Any]) -> Text:
    """Return a signal, a retrain request or a model update in words."""
    if "severity" in event:
        return _signal(event)
    return _update(event) if "status" in event else _request(event)


def _signal(signal: Mapping[str, Any]) -> Text:
    change = f"{_number(signal.get('reference'))} → {_number(signal.get('value'))}"
    style = "bold red" if signal["severity"] == "act" else "green" if signal["kind"] == "recovery" else "yellow"
    return Text.assemble(
        (f"{signal['kind']} ({signal['severity']})", style),
        f" in {printable(signal['group'])}: {signal['detector']}, loss {change}",
    )


def _request(request: Mapping[str, Any]) -> Text:
    return Text.assemble(
        ("retrain requested", "bold magenta"),
        f" for {printable(request['group'])}: {request['reason']}, {request['window']['rows']:,} rows",
    )


def _update(update: Mapping[str, Any]) -> Text:
    losses = update["metrics"]
    style = "bold green" if update["status"] == "accepted" else "bold red"
    return Text.assemble(
        (f"{printable(update['version'])} {update['status']}", style),
        f" for {printable(update['group'])}: loss {_number(losses['incumbent'])} → {_number(losses['candidate'])},"
        f" {update['rows_learned']:,} rows learned",
    )


def _versions(versions: Mapping[str, Any]) -> str:
    newest = sorted(versions.items(), key=lambda one: one[1].get("first") or 0)[-3:]
    return escape("\n".join(f"{printable(name)}: {_number(report.get('loss'))}" for name, report in newest))


def _counts(topic: str, counts: Mapping[str, int]) -> str:
    rest = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count and status != "read")
    return f"{topic}: {counts.get('read', 0):,} read" + (f" ({rest})" if rest else "")


def _number(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.4g}" if abs(value) >= 1000 else f"{value:.4f}"


def _skill(value: float | None) -> str:
    if value is None:
        return _UNDEFINED
    return f"[{'green' if value > 0 else 'red'}]{value:+.3f}[/]"


def moment(at: float) -> str:
    """Return a time in seconds since the epoch as UTC."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(at)
