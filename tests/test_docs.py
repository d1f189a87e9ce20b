"""What is published says what the code does: generated parts are up to date, examples work, links lead somewhere."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.build import FOLDER, PAGES, files, fill
from docs.contract import EVENTS, PUBLISHED, asyncapi, schema, yaml
from docs.fields import descriptions
from docs.samples import REASON_SAMPLES, example, rejection
from docs.tables import PARTS, commands, faults
from streamapp.catalogue import FAMILIES
from streamapp.cli import main
from streamapp.config import VARIABLES
from streamapp.core.settings import LearnerSettings, ModelSettings, RetrainSettings
from streamapp.errors import ConfigError, DecodeError
from streamapp.stream import learning, monitoring
from streamapp.stream.codec import REASONS, decode_outcomes, decode_predictions, encode_event
from streamapp.stream.topics import Topics, plan

ROOT = FOLDER.parent
TEXTS = sorted([*ROOT.glob("*.md"), *FOLDER.glob("*.md")])
DECODERS: dict[str, Any] = {"prediction": decode_predictions, "outcome": decode_outcomes}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(language: str) -> list[Any]:
    fence = re.compile(rf"^ *```{language}\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    return [
        pytest.param(block, id=f"{name(path)}-{number}")
        for path in TEXTS
        for number, block in enumerate(fence.findall(path.read_text()))
    ]


# What is generated


def test_generated_files_are_up_to_date() -> None:
    stale = [name(path) for path, text in files().items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run: python -m docs.build"


def test_nothing_lies_among_the_schemas_that_is_not_generated() -> None:
    assert {path for path in (FOLDER / "schemas").iterdir() if path not in files()} == set()


def test_everything_that_can_be_generated_is_on_a_page() -> None:
    shown = {part for page in PAGES for part in re.findall(r"begin: generated (.+?) -->", page.read_text())}
    assert shown == set(PARTS)


def test_a_marker_that_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="'weather'"):
        fill("<!-- begin: generated weather -->\n<!-- end: generated -->")


def test_faults_are_shown_with_how_often_they_were_tried_and_what_did_not_hold(tmp_path: Path) -> None:
    report = tmp_path / "faults.json"
    assert "`make faults LONG=1` makes one" in faults(report)
    found = [
        {"scenario": "kill-at-random", "times": 50, "held": 50, "seconds": 3600.0},
        {"scenario": "x", "fault": "the broker is cut off", "times": 10, "held": 9, "seconds": 1800},
    ]
    report.write_text(json.dumps(found))
    assert faults(report).splitlines() == [
        "| fault | times run | result |",
        "| --- | --- | --- |",
        "| kill at random | 50 | as promised each time |",
        "| the broker is cut off | 10 | **not as promised 1 of 10 times** |",
        "",
        "60 runs in 1.5 hours.",
    ]


@pytest.mark.parametrize(("command", "text"), list(commands()), ids=lambda value: value.split("\n")[0])
def test_every_command_and_option_says_what_it_does(command: str, text: str) -> None:
    assert f"\n## {command}\n" in (FOLDER / "cli.md").read_text()
    for row in text.split("| --- | --- |\n")[1].splitlines():
        option, said = row.strip("| ").split("` | ")
        assert said.strip(), f"{command} {option} has no help"


@pytest.mark.parametrize("kind", [*EVENTS.values(), ModelSettings, RetrainSettings, LearnerSettings])
def test_every_field_is_described(kind: type[msgspec.Struct]) -> None:
    assert [field for field in kind.__struct_fields__ if not descriptions(kind).get(field)] == []


# Examples


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_has_a_message_that_is_rejected_for_it(reason: str) -> None:
    assert rejection(*REASON_SAMPLES[reason])[0] == reason


@pytest.mark.parametrize("block", blocks("json"))
def test_every_json_example_is_what_the_code_reads_or_writes(block: str) -> None:
    whole = block.strip()
    for text in whole.splitlines() if whole.count("\n{") else [whole]:
        found = json.loads(text)
        kind = kind_of(found)
        if kind in DECODERS:
            (event,) = DECODERS[kind]([text.encode()])
            assert not isinstance(event, DecodeError), str(event)
            assert set(found) <= {field.encode_name for field in msgspec.structs.fields(type(event))}
        elif kind in PUBLISHED:
            assert round_trip(kind, text) == found


def kind_of(found: dict[str, Any]) -> str:
    kinds = {
        "artifact": "model-update",
        "deadline": "retrain-request",
        "severity": "signal",
        "events": "summary",
        "scored_offset": "row",
        "model": "prediction",
        "prediction_id": "outcome",
    }
    return next(kind for field, kind in kinds.items() if field in found)


def round_trip(kind: str, text: str) -> Any:
    return json.loads(encode_event(msgspec.json.decode(text, type=EVENTS[kind])))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PUBLISHED)
def test_examples_of_events_out_have_every_field_and_no_other(kind: str) -> None:
    assert round_trip(kind, example(kind)) == json.loads(example(kind))
    assert problems(schema(kind), json.loads(example(kind))) == []


@pytest.mark.parametrize("block", blocks("toml"))
def test_every_models_file_passes_check(block: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.toml"
    file.write_text(block)
    with pytest.raises(SystemExit) as end:
        main(["check", str(file)])
    said = capsys.readouterr().out
    assert end.value.code == 0, said
    assert "not in effect" not in said


@pytest.mark.parametrize("block", blocks("python"))
def test_every_python_example_compiles_and_imports_what_exists(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


# Names


def test_pages_link_only_to_what_exists() -> None:
    broken = []
    for path in TEXTS:
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = target.partition("#")
            if "://" in target:
                continue
            found = path.parent / file if file else path
            if not found.exists() or (anchor and anchor not in anchors(found.read_text())):
                broken.append(f"{name(path)}: {target}")
    assert broken == []


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pages_name_only_variables_series_and_commands_that_exist() -> None:
    variables = {variable.name for variable in VARIABLES} | {f"{v.name}_FILE" for v in VARIABLES if v.secret}
    series = {family.name for family in FAMILIES}
    series |= {f"{f.name}_{part}" for f in FAMILIES if f.type in ("summary", "histogram") for part in ("sum", "count")}
    verbs = {command.split()[0] for command, _ in commands()}
    unknown = []
    for path in TEXTS:
        text = path.read_text()
        unknown += [v for v in re.findall(r"STREAMAPP_[A-Z_]+", text) if v not in variables | {"STREAMAPP_TEST_BROKER"}]
        unknown += [found for found in re.findall(r"\bstreamapp_[a-z_]+", text) if found not in series]
        unknown += [
            verb for verb in re.findall(r"(?:^|`|\$ |bin/)streamapp ([a-z][\w-]*)", text, re.M) if verb not in verbs
        ]
    assert unknown == []


def test_every_key_of_the_summary_is_explained() -> None:
    page = (FOLDER / "cli.md").read_text().partition("\n## Summary\n")[2]
    said = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    found = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    model = found["models"]["fraud"]
    keys = {*model, *model["groups"]["champion"], *found["events"]["outcomes"]}
    assert {key for key in keys if f"`{key}`" not in said} == set()


def test_headers_are_those_that_the_tasks_ask_for() -> None:
    source = inspect.getsource(monitoring) + inspect.getsource(learning)
    asked = re.findall(r'cloud_event\([\w.]*topics\.(\w+), [\w.]+, "([\w-]+)"', source)
    assert sorted((topic.replace("_", "-"), word) for topic, word in asked) == sorted(PUBLISHED.values())


# AsyncAPI


def test_asyncapi_names_topics_that_exist_and_refers_to_what_is_there() -> None:
    document = asyncapi()
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses < {each.name for each in plan(Topics())}
    for target in re.findall(r'"\$ref": "(.+?)"', json.dumps(document)):
        if target.startswith("#/"):
            part: Any = document
            for step in target[2:].split("/"):
                part = part[step]
        else:
            assert (FOLDER / target).is_file()


def test_yaml_quotes_what_another_reader_could_take_for_something_else() -> None:
    value = {"no": "yes", "n": [1, 1.5, None, True, "1", "a: b", "#"], "empty": {}, "deep": [{"a": [{"b": "c"}]}]}
    assert list(yaml(value)) == [
        '"no": "yes"',
        '"n":',
        "  - 1",
        "  - 1.5",
        "  - null",
        "  - true",
        '  - "1"',
        '  - "a: b"',
        '  - "#"',
        "empty: {}",
        "deep:",
        "  - a:",
        "      - b: c",
    ]


# Schemas say what the codec does


def problems(rule: dict[str, Any], value: Any, root: dict[str, Any] | None = None) -> list[str]:
    """A slow, plain reader of the part of JSON Schema that the schemas use."""
    root = root or rule
    if "$ref" in rule:
        return problems(root["definitions"][rule["$ref"].removeprefix("#/definitions/")], value, root)
    found = [f"not {wanted}" for wanted in [rule.get("type")] if wanted and not is_a(wanted, value)]
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{value!r} is none of {rule['enum']}")
    if "anyOf" in rule and all(problems(each, value, root) for each in rule["anyOf"]):
        found.append("fits none")
    found += [problem for each in rule.get("allOf", ()) for problem in problems(each, value, root)]
    if "not" in rule and not problems(rule["not"], value, root):
        found.append("fits what it must not")
    if is_a("number", value):
        low, above = rule.get("minimum", value), rule.get("exclusiveMinimum", value - 1)
        high, below = rule.get("maximum", value), rule.get("exclusiveMaximum", value + 1)
        if not (low <= value <= high and above < value < below):
            found.append(f"{value} is out of range")
    if isinstance(value, str) and not rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", len(value)):
        found.append("length")
    if isinstance(value, list):
        found += [problem for each in value for problem in problems(rule.get("items", {}), each, root)]
    if isinstance(value, dict):
        properties = rule.get("properties", {})
        others = rule.get("additionalProperties", {})
        found += [f"lacks {field}" for field in rule.get("required", ()) if field not in value]
        found += ["too many"] if len(value) > rule.get("maxProperties", len(value)) else []
        for key, part in value.items():
            found += [f"{key}: {problem}" for problem in problems(properties.get(key, others), part, root)]
    return found


def is_a(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    kinds: dict[str, Any] = {
        "string": str,
        "number": (int, float),
        "integer": int,
        "object": dict,
        "array": list,
        "null": type(None),
        "boolean": bool,
    }
    return isinstance(value, kinds[kind])


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(["", "a", "fraud", "never", "human", "x" * 256, "x" * 257, "é" * 1024, "é" * 1025]),
    st.sampled_from([0, 1, -1, 2, 0.0, 1.0, 0.5, -0.5, 1.5, 1e11, 99999999999.0, 1772366400, 1e12]),
)
VALUES = st.one_of(
    SCALARS,
    st.just("2026-03-01T12:00:00Z"),
    st.lists(SCALARS, max_size=2),
    st.dictionaries(st.sampled_from(["a", "b"]), SCALARS, max_size=2),
    st.just({"a": 0.25, "b": 0.75}),
)
LEAST: dict[str, dict[str, Any]] = {
    "prediction": {"prediction_id": "a", "model": "m", "ts": 1.0, "prediction": True},
    "outcome": {"prediction_id": "a", "ts": 1.0, "outcome": True},
}


@pytest.mark.parametrize("kind", LEAST)
@given(data=st.data())
def test_schemas_accept_what_the_codec_accepts(kind: str, data: st.DataObject) -> None:
    event = dict(LEAST[kind])
    for field in data.draw(st.lists(st.sampled_from([*schema(kind)["properties"], "unknown"]), max_size=3)):
        if data.draw(st.booleans()):
            event[field] = data.draw(VALUES, label=field)
        else:
            event.pop(field, None)
    (decoded,) = DECODERS[kind]([msgspec.json.encode(event)])
    reason = decoded.reason if isinstance(decoded, DecodeError) else None
    if reason in ("bad_sum", "bad_time"):  # what schemas cannot say, or say as a format that few readers check
        return
    assert (problems(schema(kind), event) == []) == (reason is None), f"{reason}: {problems(schema(kind), event)}"
