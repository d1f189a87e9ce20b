"""How the worker logs: one line of text, or one JSON object."""

import json
import logging
import logging.config
from typing import Any

QUIET = {
    "aiokafka": "CRITICAL",  # thousands of lines a minute while a broker is gone; what follows from it we say ourselves
    "faust": "WARNING",
    "mode": "WARNING",
    "kafka": "ERROR",
    "asyncio": "WARNING",
}
"""Libraries whose chatter is of no use to an operator, unless everything is wanted."""


class TextFormatter(logging.Formatter):
    """One line a message, whatever names came over the wire are in it; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, with what would break it escaped."""
        line = super().formatMessage(record)
        return line.replace("\r", "\\r").replace("\n", "\\n")


class JsonFormatter(logging.Formatter):
    """One JSON object a line. What a line says of an ``event`` is in fields of its own as well."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(getattr(record, "details", {}))
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def logging_config(level: str, style: str) -> dict[str, Any]:
    """Return the configuration for :func:`logging.config.dictConfig`.

    Args:
        level: Least severity of our own lines.
        style: ``text`` or ``json``.
    """
    quiet = {} if level == "DEBUG" else {name: {"level": least} for name, least in QUIET.items()}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"()": TextFormatter, "format": "%(asctime)s %(levelname)-7s %(message)s"},
            "json": {"()": JsonFormatter},
        },
        "handlers": {
            # Faust replaces sys.stderr by a proxy that logs.
            "stderr": {"class": "logging.StreamHandler", "formatter": style, "stream": "ext://sys.__stderr__"},
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": quiet,
    }
