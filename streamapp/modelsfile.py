"""``models.toml``: how each model is watched, as an operator writes it, read into the core's settings."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Struct

from streamapp.core.settings import ModelSettings, Seconds, Settings, Task
from streamapp.errors import ConfigError

_T = TypeVar("_T")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_EXPECTED_DURATION = 'a duration such as "30m", "1d", "200ms" or a number of seconds'

_BASELINES = ("prior", "majority", "mean", "median", "persistence", "seasonal", "constant", "incumbent")
_LOSSES: dict[str, tuple[str, ...]] = {
    "binary": ("error", "brier", "log"),
    "multiclass": ("error", "brier", "log"),
    "regression": ("absolute", "squared"),
}
_DEFAULTS = ModelSettings()
_CHOICES = {
    "task": "binary, multiclass or regression",
    "loss": "error, brier, log, absolute or squared",
    "on_expiry": '"drop" or { assume = … }',
    "when": '"drift" or "degradation"',
}


class Comparison(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of ``[models.NAME.comparison]``: checked, not in effect yet."""

    alpha: float | None = None
    margin: float | None = None
    margin_absolute: float | None = None
    superiority: float | bool | None = None
    minimum: int | None = None
    maximum: int | None = None
    unit_horizon: Seconds | None = None
    shares: list[dict[str, Any]] | None = None


class Review(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of ``[models.NAME.review]``: checked, not in effect yet."""

    below: float | None = None
    budget: int | None = None
    audit_share: float | None = None


def seconds(value: object) -> Seconds:
    """Return a duration written as ``"1h30m"``, ``"200ms"`` or a number of seconds.

    Raises:
        ValueError: it is none, or it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if parts and _DURATION.sub("", value).strip() == "":
            return _finite(sum(float(number) * _UNITS[unit] for number, unit in parts))
    try:
        return _finite(float(value))
    except OverflowError:
        raise ValueError from None


def _finite(number: float) -> Seconds:
    if not 0 <= number < float("inf"):
        raise ValueError
    return Seconds(number)


def load_models(path: Path) -> Settings:
    """Read a models file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; the message names file, key, found and expected.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_models(text, str(path))


def parse_models(text: str, file: str = "models.toml") -> Settings:
    """Return the settings that the text of a models file describes; *file* is what errors call it.

    Raises:
        ConfigError: as :func:`load_models`.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise ConfigError(f"{file}: is not TOML: {error}") from None
    for key in document:
        if key not in ("models", "defaults"):
            raise ConfigError(f"{file}: {_unknown(key, ('models', 'defaults'))}")
    models = document.get("models", {})
    if not isinstance(models, dict):
        raise ConfigError(f"{file}: models: expected tables such as [models.fraud], got {_kind(models)}")
    return Settings(
        models={name: _model(table, f"{file}: models.{_quoted(name)}") for name, table in models.items()},
        defaults=_model(document.get("defaults", {}), f"{file}: defaults"),
    )


def notes(settings: Settings) -> list[str]:
    """Return a line on each setting that is understood but not in effect yet."""
    lines: list[str] = []
    for name, model in [*settings.models.items(), ("", settings.defaults)]:
        where = f"models.{_quoted(name)}" if name else "defaults"
        tables = [key for key in ("comparison", "review") if getattr(model, key)]
        lines.extend(f"{where}.{key}: read and checked, not in effect yet" for key in tables)
        if model.reference is not None:
            lines.append(
                f"{where}.reference: not in effect yet; the first {model.reference_rows} rows are the reference"
            )
        if model.corrections > 0:
            lines.append(f"{where}.corrections: not in effect yet; a higher revision counts as late")
    return lines


def _model(table: object, where: str) -> ModelSettings:
    """Convert one table and check what types cannot say."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, got {_kind(table)}")
    _whole(table, where)
    given = dict(table)
    if given.get("cycle") == "none":
        given["cycle"] = None
    settings = _convert(given, ModelSettings, where)
    _convert(settings.comparison, Comparison, f"{where}.comparison")
    _convert(settings.review, Review, f"{where}.review")
    if settings.features:
        raise ConfigError(
            f"{where}.features: keep, drop and hash are not available yet; "
            "leave out of the events what must not be kept, then remove this table"
        )
    _ranges(settings, where)
    _shares(settings.groups, where)
    _task(settings, where)
    for index, spec in enumerate(settings.baselines or ()):
        _baseline(spec, f"{where}.baselines[{index}]")
    if settings.baselines is not None:
        _fits(settings, where)
    for index, spec in enumerate(settings.detectors if settings.detectors != _DEFAULTS.detectors else ()):
        _detector(spec, settings, f"{where}.detectors[{index}]")
    if settings.learner != _DEFAULTS.learner:
        _estimator(settings, where)
    return settings


def _whole(value: object, where: str) -> None:
    """Refuse whole numbers of more than 64 bits, which TOML does not have: nothing that computes takes them."""
    if isinstance(value, dict):
        for key, each in value.items():
            _whole(each, f"{where}.{_quoted(key)}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _whole(each, f"{where}[{index}]")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{where}: expected a whole number of at most 64 bits, got {_short(value)}")


def _convert(table: Mapping[str, Any], kind: type[_T], where: str) -> _T:
    """Convert a table to a struct, or say what in it is wrong."""
    try:
        return msgspec.convert(table, kind, dec_hook=_duration)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), table, kind, where)) from None


def _duration(_: type, value: object) -> Seconds:
    """Convert a duration for msgspec, which puts the path behind the message."""
    try:
        return seconds(value)
    except ValueError:
        raise ValueError(f"Expected {_EXPECTED_DURATION}, got {_short(value)}") from None


def _explain(message: str, table: Mapping[str, Any], kind: type, where: str) -> str:
    """Turn msgspec's message into ours: the whole path first, then what was found and what was expected."""
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`")
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        for name in path.strip(".").split(".") if path else ():
            kind = _struct(kind, name)
        return f"{where}{path}: {_unknown(match[1], _fields(kind))}"
    if what.startswith("Invalid enum value"):
        found = what.removeprefix("Invalid enum value ")
        key = re.sub(r"\[.*", "", path.rpartition(".")[2])
        what = f"expected {_CHOICES.get(key, 'another value')}, got {found}"
    elif "[...]" in path:
        key = path.strip(".").partition("[")[0]
        for name, value in table.get(key, {}).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                path, what = f".{key}.{_quoted(name)}", f"expected a number, got {_short(value)}"
                break
    elif (value := _at(table, path)) is not None and not what.startswith("Expected a duration"):
        what = f"{_plain(what.partition(', got')[0])}, got {_short(value)}"
    return f"{where}{path}: {what[:1].lower()}{what[1:]}"


def _struct(kind: type, name: str) -> type:
    """Return the struct that a field of another one holds, or may hold."""
    hint = get_type_hints(kind)[name]
    return next(each for each in (hint, *get_args(hint)) if isinstance(each, type) and issubclass(each, Struct))


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(info.name for info in msgspec.structs.fields(kind))


def _at(table: object, path: str) -> object:
    """Return what lies at a path of msgspec's such as ``.retrain.when[0]``, None where nothing does."""
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        try:
            table = table[int(index)] if index else table[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return None
    return table


def _plain(expected: str) -> str:
    """Say msgspec's types in words of TOML."""
    words = {"int": "a whole number", "float": "a number", "str": "a string", "object": "a table"}
    words |= {"array": "a list", "bool": "true or false"}
    return re.sub(r"\w+", lambda word: words.get(word[0], word[0]), expected).replace("`", "").replace(" | ", " or ")


def _ranges(settings: ModelSettings, where: str) -> None:
    """Refuse numbers that mean nothing."""
    retrain, learner = settings.retrain, settings.learner
    rules: tuple[tuple[str, float, bool, str], ...] = (
        ("budget", settings.budget, settings.budget >= 1, "1 or more"),
        ("threshold", settings.threshold, 0 <= settings.threshold <= 1, "from 0 to 1"),
        ("reference_rows", settings.reference_rows, settings.reference_rows >= 1, "1 or more"),
        ("window_rows", settings.window_rows, settings.window_rows >= 1, "1 or more"),
        ("forget_after", settings.forget_after, settings.forget_after > 0, "above 0"),
        ("retrain.minimum_rows", retrain.minimum_rows, retrain.minimum_rows >= 1, "1 or more"),
        ("retrain.deadline", retrain.deadline, retrain.deadline > 0, "above 0"),
        ("learner.warmup", learner.warmup, learner.warmup >= 0, "0 or more"),
        ("learner.proof_rows", learner.proof_rows, learner.proof_rows >= 1, "1 or more"),
        ("learner.margin", learner.margin, 0 <= learner.margin < 1, "from 0 to below 1"),
    )
    for key, value, right, expected in rules:
        if not right:
            raise ConfigError(f"{where}.{key}: expected a number {expected}, got {value:g}")


def _shares(groups: Mapping[str, float], where: str) -> None:
    for name, share in groups.items():
        if not 0 < share <= 1:
            raise ConfigError(f"{where}.groups.{_quoted(name)}: expected a share above 0 and at most 1, got {share:g}")
    if (total := sum(groups.values())) > 1 + 1e-9:
        raise ConfigError(f"{where}.groups: expected shares that sum to at most 1, got {total:g}")


def _task(settings: ModelSettings, where: str) -> None:
    if settings.task is None or settings.loss is None or settings.loss in _LOSSES[settings.task]:
        return
    expected = ", ".join(_LOSSES[settings.task])
    raise ConfigError(f"{where}.loss: expected one of {expected} for task {settings.task}, got {settings.loss!r}")


def _baseline(spec: str | Mapping[str, Any], where: str) -> None:
    if isinstance(spec, str):
        if spec in ("seasonal", "constant"):
            raise ConfigError(f"{where}: {spec} needs a value: {{ {spec} = … }}")
        name = spec
    else:
        kinds = [key for key in spec if key != "name"]
        if kinds not in (["seasonal"], ["constant"]) or not isinstance(spec.get("name", ""), str):
            raise ConfigError(
                f"{where}: expected {{ seasonal = 24 }} or {{ constant = 0, name = … }}, got {_short(spec)}"
            )
        name = kinds[0]
        value = spec[name]
        if name == "seasonal" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{where}.seasonal: expected a whole number of 1 or more, got {_short(value)}")
        if name == "constant" and not isinstance(value, bool | int | float | str):
            raise ConfigError(f"{where}.constant: expected an answer, got {_short(value)}")
    if name not in _BASELINES:
        raise ConfigError(f"{where}: {_unknown(name, _BASELINES, 'is not a baseline')}")


def _fits(settings: ModelSettings, where: str) -> None:
    """Refuse baselines that would stop the monitor when it comes to know the task."""
    from streamapp.core.baselines import plan  # loads numpy: only where baselines are configured

    for task in (settings.task,) if settings.task is not None else get_args(Task):
        try:
            plan(settings, task)
        except ConfigError as error:
            hint = "" if settings.task is not None else "; name the task, or leave the baseline out"
            raise ConfigError(f"{where}.{error}{hint}") from None


def _detector(spec: str | Mapping[str, Any], settings: ModelSettings, where: str) -> None:
    from streamapp.core.drift import try_out  # loads River: only where a model is configured

    try:
        try_out(spec, settings)
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix('detectors: ')}") from None


def _estimator(settings: ModelSettings, where: str) -> None:
    """Refuse estimators that River does not have, or that do not take their parameters."""
    from streamapp.core.learning.learned import build_estimator  # loads River likewise

    tasks = (settings.task,) if settings.task is not None else get_args(Task)
    errors = []
    for task in tasks:
        try:
            build_estimator(settings.learner, task, 0)
        except ConfigError as error:
            errors.append(str(error))
        else:
            return
    raise ConfigError(f"{where}.{errors[0]}")


def _unknown(key: str, known: Iterable[str], what: str = "is not a setting") -> str:
    known = tuple(known)
    near = difflib.get_close_matches(key, known, 1)
    return f"{key!r} {what}: " + (f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}")


def _quoted(name: str) -> str:
    """Write a key as TOML does: bare where it can be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _kind(value: object) -> str:
    kinds = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(value), type(value).__name__)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
