"""JSON Schemas of the events, and the AsyncAPI document that refers to them."""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import fields

from docs.fields import descriptions, either, summary
from docs.samples import example
from streamapp.core import events
from streamapp.core.events import ModelUpdate, Outcome, Prediction, RetrainRequest, Signal
from streamapp.stream.cloudevents import cloud_event
from streamapp.stream.codec import MAX_CLASSES
from streamapp.stream.dead_letters import dead_letter
from streamapp.stream.topics import Topics, plan

EVENTS: dict[str, type[Struct]] = {
    "prediction": Prediction,
    "outcome": Outcome,
    "signal": Signal,
    "retrain-request": RetrainRequest,
    "model-update": ModelUpdate,
}
"""Events that have a schema, by its name."""
DIALECT = "http://json-schema.org/draft-07/schema#"
Schema = dict[str, Any]

_ONE_OF = {"prediction": ("prediction", "scores"), "outcome": ("outcome", "loss", "status")}
"""Fields of which one must be there, and not null."""
_TITLES = {
    "prediction": "What a model answered.",
    "outcome": "What turned out to be true about a prediction.",
}


def schema(name: str) -> Schema:
    """Return the JSON Schema (draft 7) of an event: what the types say, and what the codec checks beside them."""
    kind = EVENTS[name]
    _, components = msgspec.json.schema_components((_without_raw(kind),), ref_template="#/definitions/{name}")
    found = {each: _described(getattr(events, each), part) for each, part in components.items()}
    main = found.pop(kind.__name__)
    main["description"] = _TITLES.get(name, main["description"])
    if name in _ONE_OF:
        main["anyOf"] = [
            {"required": [field], "properties": {field: {"not": {"type": "null"}}}} for field in _ONE_OF[name]
        ]
    if name == "prediction":
        classes = next(part for part in main["properties"]["scores"]["anyOf"] if part.get("type") == "object")
        classes["maxProperties"] = MAX_CLASSES
    return {"$schema": DIALECT, **main, **({"definitions": found} if found else {})}


def _without_raw(kind: type[Struct]) -> type[Struct]:
    """Return a struct that says of raw JSON what it holds."""
    if not any(field.type is Raw for field in fields(kind)):
        return kind
    told = [
        (field.name, dict[str, Any] | None, None)
        if field.type is Raw
        else (field.name, field.type)
        if field.required
        else (field.name, field.type, field.default)
        for field in fields(kind)
    ]
    return msgspec.defstruct(kind.__name__, told)


def _described(kind: type[Struct], part: Schema) -> Schema:
    """Return a struct's schema with the descriptions of its fields, and without defaults that say nothing."""
    said = descriptions(kind)
    names = {field.encode_name: field.name for field in fields(kind)}
    properties = {}
    for name, found in part["properties"].items():
        text = {"description": said[names[name]]} if names[name] in said else {}
        kept = {key: value for key, value in found.items() if (key, value) != ("default", None)}
        # Beside a reference draft 7 reads nothing.
        properties[name] = {"allOf": [kept], **text} if "$ref" in kept and text else {**text, **kept}
    return {**part, "description": summary(kind), "properties": properties}


def words(part: Schema) -> str:
    """Return a schema's type in words."""
    if "anyOf" in part:
        return either([words(each) for each in part["anyOf"] if each.get("type") != "null"])
    if "allOf" in part:
        return words(part["allOf"][0])
    if "$ref" in part:
        return "object, see below"
    if "enum" in part:
        return either([f"`{value}`" for value in part["enum"] if value is not None])
    match part.get("type"):
        case "string" if part.get("format") == "date-time":
            return "RFC 3339 with zone"
        case "string":
            return "string"
        case "number":
            return "number" + _range(part)
        case "boolean":
            return "bool"
        case "object" if isinstance(part.get("additionalProperties"), dict):
            return f"object of {_plural(words(part['additionalProperties']))}"
        case "array":
            return f"list of {_plural(words(part['items']))}"
        case other:
            return str(other)


def _plural(kind: str) -> str:
    word, _, rest = kind.partition(" ")
    return f"{word}s {rest}".rstrip()


def _range(part: Schema) -> str:
    if part.get("exclusiveMaximum") == 1e11:
        return " (seconds since 1970)"
    if "maximum" in part:
        return f" in {'[' if 'minimum' in part else '('}0, 1]"
    return " ≥ 0" if "minimum" in part else ""


# AsyncAPI

_TOPICS = {
    "predictions": ("prediction", "prediction_id", "What models answered, published by your services."),
    "outcomes": ("outcome", "prediction_id", "What turned out to be true, published by your services."),
    "signals": ("signal", "model", "What somebody should know about a model."),
    "retrain": ("retrain-request", "model", "Wishes for training, with the rows to learn from."),
    "model-updates": ("model-update", "model", "What came of retrain requests; services take accepted versions."),
    "dead-letters": ("dead-letter", "that of the original record", "Messages that could not be used, whole."),
}
_INPUTS = ("predictions", "outcomes")


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document; what it says of topics and headers is asked of the code."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    plans = {each.name: each for each in plan(Topics())}
    for topic, (name, key, text) in _TOPICS.items():
        address = Topics().full(topic)
        channels[topic] = {
            "address": address,
            "description": text,
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
            "bindings": {
                "kafka": {
                    "partitions": plans[address].partitions,
                    "topicConfiguration": {"retention.ms": int(plans[address].config["retention.ms"])},
                    "bindingVersion": "0.5.0",
                }
            },
        }
        action = "receive" if topic in _INPUTS else "send"
        operations[f"{action}-{name}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{topic}"},
            "messages": [{"$ref": f"#/channels/{topic}/messages/{name}"}],
        }
        messages[name] = _message(name, key)
    operations["receive-retrain-request"] = {
        "action": "receive",
        "channel": {"$ref": "#/channels/retrain"},
        "messages": [{"$ref": "#/channels/retrain/messages/retrain-request"}],
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "streamapp",
            "version": version("streamapp"),
            "description": "Events in and out of streamapp, which watches online models in production. The prefix "
            "`streamapp.` of the topics is configurable. Outputs are written in transactions: read them with "
            "isolation.level=read_committed. The topics `decisions` and `reviews` exist and stay empty for now; "
            "`scored` and `checkpoints-*` are internal. See events.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "localhost:9092", "protocol": "kafka"}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def _message(name: str, key: str) -> dict[str, Any]:
    binding = {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}}
    if name == "dead-letter":
        return {
            "contentType": "application/octet-stream",
            "headers": _headers(dict(dead_letter(Topics(), _LETTER).headers)),
            "payload": {"description": "The original bytes."},
            "bindings": binding,
        }
    message: dict[str, Any] = {"summary": schema(name)["description"]}
    if name in PUBLISHED:
        message["headers"] = _headers(headers(name))
        message["examples"] = [{"payload": json.loads(example(name))}]
    payload = {"schemaFormat": _FORMAT, "schema": {"$ref": f"./schemas/{name}.json"}}
    return {**message, "payload": payload, "bindings": binding}


_FORMAT = "application/schema+json;version=draft-07"
_LETTER = events.DeadLetter(
    topic="predictions", partition=0, offset=0, key=None, value=b"", reason="malformed", error=""
)


def _headers(example: Mapping[str, bytes]) -> Schema:
    fixed = ("ce_specversion", "ce_type", "ce_source", "content-type")
    return {
        "type": "object",
        "required": list(example),
        "properties": {
            name: {"type": "string", **({"const": value.decode()} if name in fixed else {})}
            for name, value in example.items()
        },
    }


PUBLISHED = {
    "signal": ("signals", "signal"),
    "retrain-request": ("retrain", "retrain"),
    "model-update": ("model-updates", "model-update"),
}
"""Events with CloudEvents headers: their topics, and the last words of ``ce_type``."""


def headers(name: str) -> dict[str, bytes]:
    """Return the headers that the example of an event is published with."""
    event: Any = msgspec.json.decode(example(name), type=EVENTS[name])
    topic, word = PUBLISHED[name]
    at = event.emitted_at if isinstance(event, Signal) else event.at
    return dict(cloud_event(Topics().full(topic), event.model, word, event, at).headers)


# YAML


def yaml(value: object, indent: int = 0) -> Iterator[str]:
    """Yield the lines of a document as YAML."""
    pad = "  " * indent
    if isinstance(value, dict):
        for key, part in value.items():
            if isinstance(part, dict | list) and part:
                yield f"{pad}{_scalar(key)}:"
                yield from yaml(part, indent + 1)
            else:
                yield f"{pad}{_scalar(key)}: {_scalar(part)}"
    elif isinstance(value, list):
        for part in value:
            first, *rest = yaml(part, indent + 1) if isinstance(part, dict | list) else (_scalar(part),)
            yield f"{pad}- {first.strip()}"
            yield from rest


def _scalar(value: object) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in _RESERVED
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


_RESERVED = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
