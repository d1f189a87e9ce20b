"""``streamapp``: the command line. What a verb needs is loaded when it runs, so that ``--help`` is quick."""

import io
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from streamapp.errors import StreamappError


class _Commands(typer.core.TyperGroup):
    """Ends quietly where whoever reads us has gone; Typer would exit 1, which here means that a problem was found."""

    def invoke(self, ctx: Any) -> Any:
        code = 0
        try:
            try:
                return super().invoke(ctx)
            except typer.Exit as end:
                code = end.exit_code
                raise
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(code) from None


app = typer.Typer(
    cls=_Commands,
    help="Watch online models in production: baselines, drift, retraining and exact scores, on Kafka.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
scored = typer.Typer(help="Look into the stream of resolved predictions.", no_args_is_help=True)
app.add_typer(scored, name="scored")
dead_letters = typer.Typer(help="Look at messages that could not be used, and send them again.", no_args_is_help=True)
app.add_typer(dead_letters, name="dead-letters")
checkpoint = typer.Typer(help="Look at what tasks have stored, and forget some of it.", no_args_is_help=True)
app.add_typer(checkpoint, name="checkpoint")

EXIT = """
\b
Exit codes: 0 done, 1 found a problem, 2 bad usage or bad configuration.
"""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Models = Annotated[Path | None, typer.Option(help="models.toml; without it every model has the defaults.")]


class Scenario(StrEnum):
    """What happens to the data while a simulation runs."""

    ABRUPT = "abrupt"
    GRADUAL = "gradual"
    INPUTS = "inputs"
    NONE = "none"


def _variables() -> str:
    from streamapp.config import VARIABLES

    lines = []
    for variable in VARIABLES:
        default = f" [{variable.default}]" if variable.default else ""
        lines.append(f"  {variable.name}{default}\n      {variable.help}")
    return "\b\nConfigured by these variables of the environment [default]:\n\n\b\n" + "\n".join(lines) + "\n" + EXIT


class _WorkerCommand(typer.core.TyperCommand):
    """Lists the variables only when help is asked for."""

    def get_help(self, ctx: Any) -> str:
        self.epilog = _variables()
        return super().get_help(ctx)


@app.command(epilog=EXIT)
def demo(
    seconds: Annotated[float | None, typer.Option("--for", min=5, help="Stop by itself after so many seconds.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON at the end, and nothing else.")
    ] = False,
    scenario: Annotated[Scenario, typer.Option(help="What happens to the data.")] = Scenario.ABRUPT,
    browser: Annotated[bool, typer.Option(help="Open the status page, where there is a desktop.")] = True,
) -> None:
    """Show all of it at work, with no set-up: a broker, services whose model drifts, a worker, a learner."""
    from streamapp.demo import run

    raise typer.Exit(run(seconds=seconds, json=json, scenario=scenario.value, browser=browser))


@app.command(cls=_WorkerCommand)
def worker(
    only: Annotated[
        str | None, typer.Option(help="Roles to run: some of joiner,monitor,learner. Default: all.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="models.toml; instead of STREAMAPP_MODELS.")] = None,
) -> None:
    """Work on Kafka until stopped; start again by itself after a failure."""
    from streamapp.config import ROLES, ProcessConfig, roles, unknown_variables

    environ = dict(os.environ)
    if models is not None:
        environ["STREAMAPP_MODELS"] = str(models)
    chosen = ROLES if only is None else roles(only)
    config = ProcessConfig.from_environ(environ)
    config.settings()
    for line in unknown_variables(environ):
        _say(f"warning: {line}")
    from streamapp.stream.worker import main as run

    raise typer.Exit(run(config, environ, chosen))


@app.command(epilog=EXIT)
def replay(
    predictions: Annotated[
        str, typer.Option(help="File of predictions, one JSON object a line; also .gz, .zst; - reads standard input.")
    ],
    outcomes: Annotated[str, typer.Option(help="File of outcomes, likewise.")],
    models: Models = None,
    json: Json = False,
    metrics_out: Annotated[Path | None, typer.Option(help="Write the Prometheus text of the end to this file.")] = None,
) -> None:
    """Run the same core over recorded events, in the order of their times. Needs no broker."""
    from streamapp.commands.replay import run

    run(predictions, outcomes, models, json=json, metrics_out=metrics_out)


@app.command(epilog=EXIT)
def simulate(
    dataset: Annotated[str, typer.Option(help="Data set of River's that the services answer for.")] = "shuttle",
    scenario: Annotated[Scenario, typer.Option(help="What happens to the data.")] = Scenario.ABRUPT,
    rate: Annotated[float, typer.Option(min=0.1, help="Predictions a second.")] = 100.0,
    events: Annotated[int | None, typer.Option(min=1, help="Stop after so many predictions.")] = None,
    json: Json = False,
) -> None:
    """Run producer services on real data against the broker that STREAMAPP_BROKER names."""
    from streamapp.commands.simulate import run

    run(dataset, scenario.value, rate, events, json=json)


@app.command(epilog=EXIT)
def topics(
    create: Annotated[bool, typer.Option("--create", help="Make the topics that do not exist.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say what is wrong with topics and broker; exits 1 on problems.")
    ] = False,
    replication: Annotated[int, typer.Option(min=-1, help="Copies of each partition; -1: the broker's default.")] = -1,
    models: Annotated[Path | None, typer.Option(help="models.toml; instead of STREAMAPP_MODELS.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the broker.")] = 10.0,
    json: Json = False,
) -> None:
    """Show how the topics should be; make or check them."""
    from streamapp.commands.topics import run

    raise typer.Exit(
        run(create=create, check=check, replication=replication, models=models, timeout=timeout, json=json)
    )


@app.command(epilog="\b\nExit codes: 0 nothing wrong, 1 something wrong, 2 bad usage.\n")
def check(
    file: Annotated[Path, typer.Argument(help="The models.toml to check.")],
    json: Json = False,
) -> None:
    """Check a models.toml; name file, line or key, what was found and what was expected."""
    from streamapp.commands.check import run

    raise typer.Exit(run(file, json=json))


@app.command(epilog=EXIT)
def status(
    url: Annotated[str, typer.Option(help="Address of a worker's web server.")] = "http://127.0.0.1:6066",
    json: Json = False,
) -> None:
    """Show what a worker knows; exits 1 where it is not ready."""
    from streamapp.commands.status import run

    raise typer.Exit(run(url, json=json))


@scored.command(epilog=EXIT)
def tail(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Begin with the oldest row kept.")] = False,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop at the end instead of waiting for more.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also arrivals and ticks.")] = False,
) -> None:
    """Print resolved predictions as they come, one a line."""
    from streamapp.commands.scored import run

    run(json=json, from_beginning=from_beginning, until_end=until_end, everything=everything)


Reason = Annotated[str | None, typer.Option(help="Only letters with this reason.")]


@dead_letters.command("list", epilog=EXIT)
def list_letters(
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="Show the newest so many.")] = 100,
    json: Json = False,
) -> None:
    """Show where messages were that could not be used, and why; nothing of the messages themselves."""
    from streamapp.commands.dead_letters import show

    show(json=json, reason=reason, limit=limit)


@dead_letters.command(epilog=EXIT)
def redrive(
    reason: Reason = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; without a terminal nothing is asked.")] = False,
    json: Json = False,
) -> None:
    """Send dead letters back to their topics, each once, when the cause is mended."""
    from streamapp.commands.dead_letters import redrive as run

    raise typer.Exit(run(reason=reason, dry_run=dry_run, yes=yes, json=json))


@checkpoint.command(epilog=EXIT)
def inspect(
    role: Annotated[str | None, typer.Option(help="joiner, monitor or learner. Default: all.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    json: Json = False,
) -> None:
    """Show what tasks have stored, and whether it can be read; exits 1 where it cannot."""
    from streamapp.commands.checkpoint import run

    raise typer.Exit(run(role=role, partition=partition, json=json))


@checkpoint.command(epilog=EXIT)
def reset(
    model: Annotated[str, typer.Option(help="Name of the model to forget.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it without asking; needed where there is no terminal.")
    ] = False,
    json: Json = False,
) -> None:
    """Forget one model on purpose: its scores, detectors, requests and learned models; everything else stays.

    The tasks that know the model are taken over for a moment. Workers that have them begin anew by themselves. Without
    --yes, say what would be forgotten, and ask.
    """
    from streamapp.commands.reset import run

    raise typer.Exit(run(model, yes=yes, json=json))


@app.command(epilog=EXIT)
def skip(
    topic: Annotated[str, typer.Option(help="predictions, outcomes, scored or retrain; with or without the prefix.")],
    partition: Annotated[int, typer.Option(min=0, help="Partition of the record.")],
    offset: Annotated[int, typer.Option(min=0, help="Offset of the record.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; without a terminal nothing is asked.")] = False,
    json: Json = False,
) -> None:
    """Move a record that a bug cannot pass to dead-letters, as quarantined, so that its task goes on without it.

    A parked task names the command. The record is copied to dead-letters in one transaction with an entry in the task's
    checkpoint by which the task leaves it out. A record that was applied already cannot be moved; that exits 1.
    """
    from streamapp.commands.skip import run

    raise typer.Exit(run(topic, partition, offset, yes=yes, json=json))


def _say(line: str) -> None:
    sys.stderr.write(f"streamapp: {line}\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line and exit code 2, never a traceback.

    Args:
        arguments: None: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may have letters that its encoding has not
    try:
        app(args=arguments)
    except StreamappError as error:
        _say(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
