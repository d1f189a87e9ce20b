"""``streamapp replay``: the core over recorded events."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamapp.core.settings import Settings
from streamapp.errors import ConfigError
from streamapp.modelsfile import load_models
from streamapp.pipeline import Pipeline
from streamapp.recording import Recording, read
from streamapp.replay import replay
from streamapp.tables import Terminal, summary_view, to_json


def run(predictions: str, outcomes: str, models: Path | None, *, json: bool, metrics_out: Path | None) -> None:
    """Replay two files and print the summary.

    Raises:
        ConfigError: a file cannot be read or written, or both are standard input.
    """
    if predictions == outcomes == "-":
        raise ConfigError("only one of --predictions and --outcomes can be standard input")
    settings = load_models(models) if models is not None else Settings()
    if metrics_out is not None:
        _try(metrics_out)
    console = Console(stderr=True)
    with _collecting_seldom(), _progress(console) as progress:
        reading = progress.add_task("reading", total=None)
        answers = read(predictions, "predictions", progress=lambda n: progress.advance(reading, n))
        truths = read(outcomes, "outcomes", progress=lambda n: progress.advance(reading, n))
        progress.remove_task(reading)
        running = progress.add_task("replaying", total=len(answers) + len(truths))
        pipeline = replay(answers, truths, settings, progress=lambda n: progress.advance(running, n))
    for path, recording in ((predictions, answers), (outcomes, truths)):
        _report(path, recording, pipeline)
    if metrics_out is not None:
        _write(metrics_out, pipeline, settings)
    summary = pipeline.summary()
    if json:
        typer.echo(to_json(summary))
    else:
        Terminal().print(summary_view(summary))


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Let the garbage collector look rarely: millions of events stay until the end, and next to nothing has cycles."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _report(path: str, recording: Recording, pipeline: Pipeline) -> None:
    """Say how many events could not be used and why, and where the first bad line is."""
    reasons = {reason: count for (topic, reason), count in pipeline.rejected.items() if topic == recording.kind}
    if not reasons:
        return
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    typer.echo(f"{path}: {sum(reasons.values())} events rejected ({counted})", err=True)
    if (bad := recording.first_bad()) is not None:
        typer.echo(f"{path}:{bad[0]}: {bad[1]}", err=True)


def _try(path: Path) -> None:
    """Refuse a file that cannot be written before the run that would end with it; leave it as it is."""
    there = path.exists()
    if path.is_fifo():  # whoever reads it would take this for the end
        return
    try:
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None


def _write(path: Path, pipeline: Pipeline, settings: Settings) -> None:
    from prometheus_client import generate_latest

    from streamapp.exposition import Exposition

    exposition = Exposition(settings)
    exposition.publish(pipeline.snapshot())
    try:
        path.write_bytes(generate_latest(exposition.registry))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
