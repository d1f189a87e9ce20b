"""``streamapp topics``: how the topics should be, making them, checking them."""

import os
from pathlib import Path

import typer
from rich.table import Table

from streamapp.config import ProcessConfig
from streamapp.core.settings import Settings
from streamapp.stream import topics
from streamapp.tables import Terminal, to_json


def run(*, create: bool, check: bool, replication: int, models: Path | None, timeout: float, json: bool) -> int:
    """Show, make or check the topics, and return the exit code."""
    environ = dict(os.environ)
    if models is not None:
        environ["STREAMAPP_MODELS"] = str(models)
    config = ProcessConfig.from_environ(environ)
    settings = config.settings()
    plans = topics.plan(
        topics.Topics(config.topic_prefix),
        partitions=config.partitions,
        scored_partitions=config.scored_partitions,
        retention=max(7 * topics.DAY, 2 * _longest(settings)),
    )
    if not create and not check:
        _show(plans, json=json)
        return 0
    report: dict[str, object] = {}
    if create:
        report["created"] = topics.create(
            config.broker, plans, replication=replication, timeout=timeout, **config.security()
        )
    problems = 0
    if check:
        findings = topics.check(config.broker, plans, keep=_longest(settings), timeout=timeout, **config.security())
        problems = sum(finding.severity == "problem" for finding in findings)
        report["findings"] = findings
    if json:
        typer.echo(to_json(report))
        return 1 if problems else 0
    if create:
        made = ", ".join(map(str, report["created"]))  # type: ignore[call-overload]
        typer.echo(f"made: {made}" if made else "every topic was there already")
    if check:
        for finding in findings:
            typer.echo(f"{finding.severity}: {finding.text}\n  {finding.remedy}")
        if not findings:
            typer.echo("topics and broker are as they should be")
    return 1 if problems else 0


def _longest(settings: Settings) -> float:
    """Return the longest time that any model may wait for an outcome."""
    return max(model.outcome_window + model.grace for model in [settings.defaults, *settings.models.values()])


def _show(plans: tuple[topics.TopicPlan, ...], *, json: bool) -> None:
    if json:
        typer.echo(to_json({"topics": plans}))
        return
    table = Table("topic", "partitions", "settings", pad_edge=False)
    for plan in plans:
        table.add_row(
            plan.name, str(plan.partitions), ", ".join(f"{key}={value}" for key, value in plan.config.items())
        )
    Terminal().print(table)
