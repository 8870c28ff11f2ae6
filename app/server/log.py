"""Structured logs: one JSON object a line on stderr."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import msgspec

logger = logging.getLogger("server")


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "event", ...}`; what a call gives as `extra={"fields": {...}}` follows."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line; a traceback is a field of it."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(level: str) -> None:
    """Send this package's logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


def log(level: int, event: str, **fields: object) -> None:
    """Write one line; `event` is an id in snake_case, `fields` become members."""
    logger.log(level, event, extra={"fields": fields})


def info(event: str, **fields: object) -> None:
    """Tell what an operator wants to see in quiet times."""
    log(logging.INFO, event, **fields)


def warning(event: str, **fields: object) -> None:
    """Tell what an operator should look at."""
    log(logging.WARNING, event, **fields)


def error(event: str, **fields: object) -> None:
    """Tell what an operator must act on."""
    log(logging.ERROR, event, **fields)
