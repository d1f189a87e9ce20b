"""The generated parts of the pages, each a function of the code."""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import typer
from msgspec import Struct
from msgspec.structs import fields, replace

from docs.contract import EVENTS, PUBLISHED, headers, schema, words
from docs.fields import descriptions, either, markdown, table
from docs.samples import REASON_SAMPLES, error_text, example, scored_lines, summary_of_sample
from streamapp.catalogue import FAMILIES, RECOVERIES
from streamapp.cli import app
from streamapp.config import VARIABLES
from streamapp.core.baselines import DEFAULTS as BASELINES
from streamapp.core.detection.alarm import State
from streamapp.core.drift import DETECTORS
from streamapp.core.joining.tally import STATUSES
from streamapp.core.losses import LOSSES
from streamapp.core.scores import scores_of
from streamapp.core.settings import Assume, LearnerSettings, ModelSettings, RetrainSettings, Seconds, Settings
from streamapp.exposition import DELAY_BOUNDS, LATENCY_BOUNDS
from streamapp.modelsfile import Comparison, Review, notes
from streamapp.stream import codec, complaints
from streamapp.stream.topics import TopicPlan, Topics, plan
from streamapp.tables import to_json

FAULTS = Path(__file__).parent / "faults.json"
"""Report of a long run of the faults, if there is one."""

# Events


def event_fields(name: str) -> str:
    """Return the fields of an event, and below it of the objects in it."""
    whole = schema(name)
    parts = [_fields_of(whole)]
    for kind, part in whole.get("definitions", {}).items():
        users = [f"`{field}`" for field, found in whole["properties"].items() if kind in json.dumps(found)]
        parts.append(f"{' and '.join(users)}:\n\n{_fields_of(part)}")
    return "\n\n".join(parts)


def _fields_of(part: Mapping[str, Any]) -> str:
    required = part.get("required", ())
    asked = {field for rule in part.get("anyOf", ()) for field in rule["required"]}
    rows = []
    for name, found in part["properties"].items():
        need = "yes" if name in required else "one of these" if name in asked else ""
        default = f" Default: `{found['default']}`." if "default" in found else ""
        null = " or `null`" if name in required and any(p.get("type") == "null" for p in found.get("anyOf", ())) else ""
        rows.append((f"`{name}`", words(found) + null, need, found.get("description", "") + default))
    return table(("field", "type", "required", ""), rows)


def event_headers() -> str:
    """Return the headers of a signal, as they are sent."""
    rows = [(f"`{name}`", f"`{value.decode()}`") for name, value in headers("signal").items()]
    return table(("header", "of the signal below"), rows)


def event_example(name: str) -> str:
    """Return an event as it was once published."""
    return f"```json\n{example(name).strip()}\n```"


def reasons() -> str:
    """Return every reason of a rejection, with an error as the dead letter has it."""
    source = re.sub(
        r"MAX_(\w+)", lambda name: f"{getattr(codec, name[0]):,} {name[1].lower()}", inspect.getsource(complaints)
    )
    meaning = dict(re.findall(r'^    "(\w+)",  # (.+)$', source, re.MULTILINE))
    rows = [
        (f"`{reason}`", meaning[reason].partition(" (the joiner")[0], f"`` {error_text(*REASON_SAMPLES[reason])} ``")
        for reason in codec.REASONS
    ]
    return table(("reason", "what was found", "example of the `error` header"), rows)


_KEYS = {
    "predictions": ("`prediction_id`", "your services"),
    "outcomes": ("`prediction_id`", "your services"),
    "scored": ("model", "joiner; internal"),
    "signals": ("model", "monitor"),
    "retrain": ("model", "monitor"),
    "model-updates": ("model", "learner"),
    "dead-letters": ("that of the original", "every role"),
    "decisions": ("model", "nobody yet: it stays empty"),
    "reviews": ("`prediction_id`", "nobody yet: it stays empty"),
    "checkpoints-joiner": ("", "joiner; internal"),
    "checkpoints-monitor": ("", "monitor; internal"),
    "checkpoints-learner": ("", "learner; internal"),
}


def topics() -> str:
    """Return every topic with its key, its partitions and who writes it."""
    rows = []
    for each in plan(Topics()):
        name = each.name.removeprefix(Topics().prefix)
        key, writer = _KEYS[name]
        rows.append((f"`{each.name}`", writer, key, each.partitions, _kept(each)))
    return table(("topic", "written by", "key", "partitions", "kept"), rows)


def _kept(each: TopicPlan) -> str:
    retention = each.config.get("retention.ms")
    return f"{int(retention) / 86_400_000:g} days" if retention else "compacted"


# Configuration


def variables() -> str:
    """Return the variables of the environment."""
    rows = []
    for each in VARIABLES:
        default = f"`{each.default}`" if each.default else ""
        rows.append(
            (f"`{each.name}`", each.expected, default, each.help + ("." if not each.help.endswith(".") else ""))
        )
    return table(("variable", "value", "default", ""), rows)


def settings(kind: type[Struct]) -> str:
    """Return the keys of a table of models.toml."""
    said, rows = descriptions(kind), []
    for field in fields(kind):
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        if isinstance(default, Struct):
            continue
        shown = "" if default in (None, "", {}, ()) else f"`{_toml(default)}`"
        if default is None and field.name == "cycle":
            shown = '`"none"`'
        idle = " **Not in effect yet.**" if _idle(kind, field.name) else ""
        rows.append((f"`{field.name}`", _kind(field.type), shown, _toml_words(said.get(field.name, "")) + idle))
    return table(("key", "type", "default", ""), rows)


def _toml_words(text: str) -> str:
    """Return a description without nulls, which TOML has not."""
    return text.replace('`null` (`"none"`)', '`"none"`').replace("`null`", "not given")


def _idle(kind: type[Struct], name: str) -> bool:
    """Ask the code whether a setting is understood but does nothing."""
    samples: dict[str, object] = {
        "reference": "rows.parquet",
        "corrections": Seconds(60),
        "comparison": {"alpha": 0.05},
        "review": {"below": 0.6},
    }
    if kind is not ModelSettings or name not in samples:
        return False
    return bool(notes(Settings(models={"one": replace(ModelSettings(), **{name: samples[name]})})))


def _toml(value: object) -> str:
    if isinstance(value, Seconds):
        return f'"{duration(value)}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return (
        f"{value:_}"
        if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000
        else json.dumps(value)
    )


def duration(seconds: float) -> str:
    """Return seconds as models.toml writes them, in the largest unit that fits."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _kind(annotation: Any) -> str:
    """Return a type in the words of TOML."""
    if annotation in _KINDS:
        return _KINDS[annotation]
    origin, parts = get_origin(annotation), [each for each in get_args(annotation) if each not in (type(None), ...)]
    if origin is Literal:
        return either([f'`"{each}"`' for each in parts])
    if origin in (tuple, list):
        return f"list of {_kind(parts[0])}"
    return "table" if origin is dict else either([_kind(each) for each in parts])


_KINDS: dict[Any, str] = {
    str: "string",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Seconds: "duration",
    Assume: "`{ assume = … }`",
}


def keys(kind: type[Struct]) -> str:
    """Return the names of the keys of a table of models.toml."""
    return _list(field.name for field in fields(kind))


def baselines() -> str:
    """Return the baselines of each task where none are configured."""
    rows = [
        (f"`{task}`", ", ".join(f"`{name}`" for name in (*names, "incumbent"))) for task, names in BASELINES.items()
    ]
    return table(("task", "baselines where none are configured"), rows)


def detectors() -> str:
    """Return the names of all detectors."""
    return ", ".join(f"`{name}`" for name in DETECTORS)


# Metrics


def families() -> str:
    """Return every series."""
    rows = [(f"`{f.name}`", f.type, ", ".join(f"`{label}`" for label in f.labels), f.help) for f in FAMILIES]
    return table(("series", "type", "labels", ""), rows)


def labels() -> str:
    """Return the values that closed labels take."""
    kinds: list[tuple[str, str]] = [("`status`", _list(name for name in STATUSES if name != "read"))]
    kinds += [(f"`metric`, {task}", _list(scores_of(task).metrics(LOSSES[task][0]))) for task in LOSSES]
    kinds += [(f"`loss`, {task}", _list(LOSSES[task])) for task in LOSSES]
    kinds += [("`state`", _list(get_args(State)))]
    bounds = (("prediction_latency", LATENCY_BOUNDS), ("outcome_delay", DELAY_BOUNDS))
    kinds += [(f"`le`, `streamapp_{name}_seconds`", ", ".join(map(str, found))) for name, found in bounds]
    return table(("label", "values"), kinds)


def recoveries() -> str:
    """Return the reasons that recoveries are counted by."""
    return table(("reason", "what happened"), [(f"`{reason}`", text) for reason, text in RECOVERIES.items()])


def _list(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


# Commands


def commands() -> Iterator[tuple[str, str]]:
    """Yield every command that does something, with what its help says."""
    group = typer.main.get_command(app)
    yield from _walk(group, group.context_class(group, info_name="streamapp"))


def _walk(command: Any, context: Any) -> Iterator[tuple[str, str]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield context.command_path.removeprefix("streamapp "), _help(command, context)
        return
    for name, each in inner.items():
        yield from _walk(each, each.context_class(each, info_name=name, parent=context))


def _help(command: Any, context: Any) -> str:
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    records = [each.get_help_record(context) for each in command.get_params(context) if each.name != "help"]
    rows = [(f"`{name}`", text.replace("  [", " [")) for name, text in records]
    return f"```text\n{usage}\n```\n\n{markdown(command.help)}\n\n{table(('option', ''), rows)}"


def summary_example() -> str:
    """Return the summary of a few events."""
    return f"```json\n{to_json(summary_of_sample())}\n```"


def tail_example() -> str:
    """Return rows of ``scored tail --json``."""
    lines = "\n".join(json.dumps(line) for line in scored_lines())
    return f"```json\n{lines}\n```"


def faults(report: Path = FAULTS) -> str:
    """Return how often each fault was tried and what came of it, from the report of a long run."""
    if not report.exists():
        return (
            "No long run has been recorded: `make faults LONG=1` makes one, its report belongs into `docs/faults.json`"
            " as a list of objects with `scenario`, `times`, `held` and `seconds`."
        )
    rows, found_all = [], msgspec.json.decode(report.read_bytes(), type=list[FaultReport])
    for found in found_all:
        failed = found.times - found.held
        result = "as promised each time" if not failed else f"**not as promised {failed} of {found.times} times**"
        rows.append((found.fault or found.scenario.replace("-", " ").replace("_", " "), found.times, result))
    times, seconds = sum(each.times for each in found_all), sum(each.seconds for each in found_all)
    return f"{table(('fault', 'times run', 'result'), rows)}\n\n{times} runs in {seconds / 3600:.1f} hours."


class FaultReport(Struct, kw_only=True):
    """What came of one scenario of `make faults`."""

    scenario: str
    times: int
    held: int
    """How often everything was as promised."""
    seconds: float
    """Of all runs together."""
    fault: str = ""
    """What is done to whom, in words; empty: the scenario's name."""


PARTS: dict[str, Callable[[], str]] = {
    **{f"fields of {name}": (lambda name=name: event_fields(name)) for name in EVENTS},  # type: ignore[misc]
    **{f"example of {name}": (lambda name=name: event_example(name)) for name in PUBLISHED},  # type: ignore[misc]
    "headers": event_headers,
    "reasons": reasons,
    "topics": topics,
    "variables": variables,
    "settings of a model": lambda: settings(ModelSettings),
    "settings of retrain": lambda: settings(RetrainSettings),
    "settings of learner": lambda: settings(LearnerSettings),
    "keys of comparison": lambda: keys(Comparison),
    "keys of review": lambda: keys(Review),
    "baselines": baselines,
    "detectors": detectors,
    "families": families,
    "labels": labels,
    "recoveries": recoveries,
    "faults": faults,
    "summary": summary_example,
    "scored tail": tail_example,
    **{f"command {name}": (lambda text=text: text) for name, text in commands()},  # type: ignore[misc]
}
"""What stands between the markers of that name."""
