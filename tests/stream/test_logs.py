"""A log line is one line, and in JSON it is one object."""

import io
import json
import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator

import pytest

from streamapp.stream.logs import QUIET, JsonFormatter, TextFormatter, logging_config


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that nothing else listens to."""
    logger = logging.Logger("streamapp.test")
    yield logger
    logger.handlers.clear()


def test_each_line_is_one_json_object_whatever_is_said(logger: logging.Logger) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.warning("%s\nand %d more: é \x00 \u2028", 'quoted "text"', 3)
    try:
        raise ValueError("in\ntwo lines")
    except ValueError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().split("\n") if line)
    assert first["message"] == 'quoted "text"\nand 3 more: é \x00 \u2028'
    assert (first["level"], first["logger"]) == ("WARNING", "streamapp.test")
    assert set(first) == {"time", "level", "logger", "message"}
    assert second["message"] == "failed"
    assert second["error"].endswith("ValueError: in\ntwo lines")


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("level", ["DEBUG", "INFO", "ERROR"])
def test_the_configuration_names_its_level_and_quiets_libraries_unless_all_is_wanted(level: str, style: str) -> None:
    config = logging_config(level, style)
    assert config["root"] == {"level": level, "handlers": ["stderr"]}
    assert config["handlers"]["stderr"]["formatter"] == style
    assert set(config["loggers"]) == (set() if level == "DEBUG" else set(QUIET))


def test_the_configuration_can_be_applied() -> None:
    code = (
        "import logging, logging.config; from streamapp.stream.logs import logging_config;"
        "logging.config.dictConfig(logging_config('INFO', 'json')); logging.getLogger('a').info('said');"
        "logging.getLogger('aiokafka').warning('not said')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["message"] == "said"


def test_name_with_a_line_break_cannot_forge_a_line_of_text() -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(TextFormatter("%(levelname)s %(message)s"))
    record = logging.LogRecord("streamapp", logging.INFO, "", 0, "learning %s", ("a\nERROR all is lost\r",), None)
    handler.handle(record)
    assert text.getvalue() == "INFO learning a\\nERROR all is lost\\r\n"
