"""What an operator sets: ``STREAMAPP_*`` variables for the process, ``models.toml`` for the models.

The variables are read from a mapping that is passed in, so tests pass a dict. :data:`VARIABLES` is the one list of
them: parsing, ``streamapp worker --help`` and the documentation follow it. Models are read by
:mod:`streamapp.modelsfile`.
"""

import difflib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from streamapp.core.settings import Settings
from streamapp.errors import ConfigError
from streamapp.modelsfile import load_models, seconds

Role = Literal["joiner", "monitor", "learner"]
ROLES: tuple[Role, ...] = ("joiner", "monitor", "learner")

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One environment variable of the process."""

    name: str
    """Its whole name, e.g. ``STREAMAPP_BROKER``."""
    attribute: str
    """The attribute of :class:`ProcessConfig` that it sets."""
    default: str
    """What holds where it is not set, as one would write it; empty: nothing."""
    expected: str
    """What a value must be, for the error."""
    help: str
    """One line for people."""
    parse: Callable[[str], Any]
    """Return the value of the text, or raise ValueError."""
    secret: bool = False
    """Never shown; may also come from the file that ``<name>_FILE`` names."""


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


def _duration(text: str) -> float:
    value = float(seconds(text))
    if value <= 0:
        raise ValueError
    return value


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    by_fold = {word.casefold(): word for word in words}

    def parse(text: str) -> str:
        try:
            return by_fold[text.casefold()]
        except KeyError:
            raise ValueError from None

    return parse


def _broker(text: str) -> str:
    for address in text.split(","):
        host, colon, port = address.strip().rpartition(":")
        if not (host and colon) or not 0 < int(port) < 65536:
            raise ValueError
    return ",".join(address.strip() for address in text.split(","))


def _word(text: str) -> str:
    """Return a name that Kafka accepts in topics and groups."""
    if len(text) > 150 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in text):
        raise ValueError
    return text


def _group(text: str) -> str:
    if not text:
        raise ValueError
    return _word(text)


def _switch(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.casefold()]


def _nonempty(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _variable(
    suffix: str, default: str, expected: str, parse: Callable[[str], Any], help: str, *, secret: bool = False
) -> Variable:
    return Variable(
        name=f"STREAMAPP_{suffix}",
        attribute=suffix.lower(),
        default=default,
        expected=expected,
        help=help,
        parse=parse,
        secret=secret,
    )


VARIABLES: tuple[Variable, ...] = (
    _variable("BROKER", "localhost:9092", "host:port,…", _broker, "Kafka brokers to begin with"),
    _variable("GROUP_ID", "streamapp", "a name of letters, digits and ._-", _group, "Consumer group of the workers"),
    _variable("TOPIC_PREFIX", "streamapp.", "letters, digits and ._-", _word, "Put in front of every topic's name"),
    _variable(
        "PARTITIONS",
        "8",
        "a whole number from 1 to 100000",
        _whole(1, 100_000),
        "Partitions of predictions and outcomes",
    ),
    _variable("SCORED_PARTITIONS", "4", "a whole number from 1 to 10000", _whole(1, 10_000), "Partitions of scored"),
    _variable("MODELS", "", "the path of a file", _nonempty, "models.toml; without it every model has the defaults"),
    _variable("DATA", "data", "the path of a folder", _nonempty, "Folder for what the process keeps on disk"),
    _variable(
        "ARTIFACTS", "", "an fsspec URL", _nonempty, "Where learned models go; default: artifacts in the data folder"
    ),
    _variable("COMMIT_INTERVAL", "0.25", "seconds above 0", _duration, "Seconds between two commits of a task"),
    _variable("SESSION_TIMEOUT", "10", "seconds above 0", _duration, "Seconds after which a silent worker is replaced"),
    _variable(
        "TRANSACTIONS",
        "true",
        "true or false",
        _switch,
        "false only for brokers without them: nothing is promised then",
    ),
    _variable(
        "ALLOW_LOST",
        "false",
        "true or false",
        _switch,
        "true: predictions that retention removed while pending count as lost; false: their task is parked",
    ),
    _variable("WEB_HOST", "127.0.0.1", "an address", _nonempty, "Address the web server listens on; 0.0.0.0: all"),
    _variable("WEB_PORT", "6066", "a port from 0 to 65535", _whole(0, 65535), "Port of the web server; 0: a free one"),
    _variable("LOG_LEVEL", "INFO", "one of " + ", ".join(_LEVELS), _one_of(_LEVELS), "Least severity that is logged"),
    _variable("LOG_FORMAT", "text", "text or json", _one_of(("text", "json")), "One line of text or one JSON object"),
    _variable(
        "SECURITY_PROTOCOL",
        "PLAINTEXT",
        "one of " + ", ".join(_PROTOCOLS),
        _one_of(_PROTOCOLS),
        "How brokers are spoken to",
    ),
    _variable(
        "SASL_MECHANISM", "PLAIN", "one of " + ", ".join(_MECHANISMS), _one_of(_MECHANISMS), "How to log in, with SASL"
    ),
    _variable("SASL_USERNAME", "", "a name", _nonempty, "Who logs in, with SASL"),
    _variable(
        "SASL_PASSWORD",
        "",
        "a password",
        _nonempty,
        "Their password; or its file in STREAMAPP_SASL_PASSWORD_FILE",
        secret=True,
    ),
    _variable(
        "CA_FILE", "", "the path of a file", _nonempty, "PEM certificates to trust, with TLS; default: the system's"
    ),
)
"""Every variable that a process reads."""

_BY_NAME = {variable.name: variable for variable in VARIABLES}
_FOREIGN = ("STREAMAPP_TEST_", "STREAMAPP_SERVICE_", "STREAMAPP_PORT", "STREAMAPP_ONLY", "STREAMAPP_SUPERVISED")
"""Set by test runs, by Kubernetes for a service called streamapp, and by a worker for its processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessConfig:
    """How one process reaches Kafka, what it keeps where, and how it shows itself."""

    broker: str = "localhost:9092"
    """Brokers to begin with, ``host:port`` with commas between."""
    group_id: str = "streamapp"
    topic_prefix: str = "streamapp."
    partitions: int = 8
    """Partitions of ``predictions`` and of ``outcomes``."""
    scored_partitions: int = 4
    models: Path | None = None
    """The models file; None: every model has the defaults."""
    data: Path = Path("data")
    artifacts: str = ""
    """fsspec URL for learned models; see :attr:`artifacts_url`."""
    commit_interval: float = 0.25
    """Seconds."""
    session_timeout: float = 10.0
    """Seconds."""
    transactions: bool = True
    """False where the broker has none: exactly-once is not promised then."""
    allow_lost: bool = False
    """Count predictions that retention overtook as lost, where the task would be parked otherwise."""
    web_host: str = "127.0.0.1"
    web_port: int = 6066
    """0: a free port."""
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    ca_file: Path | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "ProcessConfig":
        """Return the configuration that the environment variables describe.

        Raises:
            ConfigError: names the variable, what was found (never a secret) and what was expected.
        """
        values: dict[str, Any] = {}
        for variable in VARIABLES:
            text = _text(variable, environ)
            if text is None:
                continue
            try:
                value = variable.parse(text)
            except (ValueError, KeyError):
                found = "" if variable.secret else f", got {text[:200]!r}"
                raise ConfigError(f"{variable.name} must be {variable.expected}{found}") from None
            values[variable.attribute] = Path(value) if variable.attribute in ("models", "data", "ca_file") else value
        config = cls(**values)
        if config.security_protocol.startswith("SASL") and not (config.sasl_username and config.sasl_password):
            raise ConfigError(
                f"STREAMAPP_SECURITY_PROTOCOL is {config.security_protocol}: STREAMAPP_SASL_USERNAME and "
                "STREAMAPP_SASL_PASSWORD (or STREAMAPP_SASL_PASSWORD_FILE) must be set"
            )
        if config.ca_file is not None and not config.ca_file.is_file():
            raise ConfigError(f"STREAMAPP_CA_FILE must be the path of a file, got {str(config.ca_file)!r}")
        return config

    @property
    def artifacts_url(self) -> str:
        """Where learned models go: the URL given, or a folder beside the other data."""
        return self.artifacts or str((self.data / "artifacts").resolve())

    def settings(self) -> Settings:
        """Read the models file; without one every model has the defaults.

        Raises:
            ConfigError: the file is missing or something in it is wrong.
        """
        return Settings() if self.models is None else load_models(self.models)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context that the security protocol asks for, None for plain text."""
        if self.security_protocol not in ("SSL", "SASL_SSL"):
            return None
        try:
            return ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"STREAMAPP_CA_FILE: {self.ca_file} holds no usable PEM certificates ({error})") from None

    def security(self) -> dict[str, Any]:
        """Return the keyword arguments by which aiokafka and kafka-python clients reach a secured broker."""
        arguments: dict[str, Any] = {"security_protocol": self.security_protocol}
        if (context := self.ssl_context()) is not None:
            arguments["ssl_context"] = context
        if self.security_protocol.startswith("SASL"):
            arguments |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        return arguments


def _text(variable: Variable, environ: Mapping[str, str]) -> str | None:
    """Return what the environment says of a variable; an empty value is no value, but for the prefix."""
    text = environ.get(variable.name)
    if text == "" and variable.name != "STREAMAPP_TOPIC_PREFIX":
        text = None
    path = environ.get(f"{variable.name}_FILE") if variable.secret else None
    if not path:
        return text
    if text is not None:
        raise ConfigError(f"{variable.name} and {variable.name}_FILE are both set: set one of them")
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"{variable.name}_FILE: {path} cannot be read ({reason})") from None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a line on each ``STREAMAPP_`` variable that nothing reads: most often a misspelt one."""
    known = {*_BY_NAME, *(f"{v.name}_FILE" for v in VARIABLES if v.secret)}
    lines = []
    for name in sorted(environ):
        if name.startswith("STREAMAPP_") and name not in known and not name.startswith(_FOREIGN):
            near = difflib.get_close_matches(name, known, 1)
            lines.append(f"{name} is not a setting" + (f": did you mean {near[0]}?" if near else ""))
    return lines


def roles(text: str) -> tuple[Role, ...]:
    """Return the roles that a list such as ``joiner,monitor`` names, in the order of the stream.

    Raises:
        ConfigError: a word is not a role, or there is none.
    """
    named = [word.strip() for word in text.split(",") if word.strip()]
    for word in named:
        if word not in ROLES:
            raise ConfigError(f"--only must name some of {', '.join(ROLES)}, got {word!r}")
    if not named:
        raise ConfigError(f"--only must name some of {', '.join(ROLES)}, got nothing")
    return tuple(role for role in ROLES if role in named)
