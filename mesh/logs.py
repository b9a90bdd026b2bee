"""The log of brokers and workers: one line for each thing, as text or as JSON, in UTC.

What is logged while a call is served carries the id of its request.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from mesh.context import running

TEXT, JSON = "text", "json"
MAX_EXCEPTION = 65_536


def begin(level: str, form: str = TEXT) -> None:
    """Log to standard error from here on, what is of `level` or above, as `form` says."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_call)
    handler.setFormatter(JsonLines() if form == JSON else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _add_call(record: logging.LogRecord) -> bool:
    call = running.get()
    if call is not None:
        record.request = call.request_id
        record.target = f"{call.service}.{call.method}"
    return True


class _Lines(logging.Formatter):
    """What both have in common: a handler's exception may hold a hundred megabytes of text."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        text = super().formatException(ei)
        left_out = len(text) - MAX_EXCEPTION
        return f"{text[:MAX_EXCEPTION]}... ({left_out:,} more characters)" if left_out > 0 else text


class TextLines(_Lines):
    """For people: time, level, logger, message, and the request if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(  # noqa: N802 - logging's name
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        return _time(record, " ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        text = super().formatMessage(record)
        request = getattr(record, "request", "")
        return f"{text} (request {request})" if request else text


class JsonLines(_Lines):
    """For machines: an object a line.

    `time` (ISO 8601, UTC), `level`, `logger`, `pid`, `message`; where they apply `request` (its
    id), `target` (service.method), `exception` (the traceback), and the facts of an event.
    """

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": _time(record, "T"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": os.getpid(),
            "message": record.getMessage(),
        }
        for name in ("request", "target"):
            value = getattr(record, name, "")
            if value:
                found[name] = value
        facts = getattr(record, "facts", None)
        if isinstance(facts, dict):
            found.update(facts)
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord, between: str) -> str:
    at = time.strftime(f"%Y-%m-%d{between}%H:%M:%S", time.gmtime(record.created))
    return f"{at}.{int(record.msecs):03d}Z"
