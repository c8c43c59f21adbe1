"""Logs: one JSON object a line on standard output, with the trace they belong to."""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from opentelemetry import trace

log = logging.getLogger(__name__)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """Formats a record with its `extra` fields and the current trace and span id."""

    def __init__(self, service: str, instance: str) -> None:
        super().__init__()
        self._origin = {"service": service, "instance": instance}

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._origin,
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
            line["span_id"] = f"{context.span_id:016x}"
        line |= {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(service: str, instance: str, level: str) -> None:
    """Sends every log line of this process to standard output as JSON.

    So goes what Python would print by itself: the traceback of an error that nothing caught.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service, instance))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _told_at_the_end
    sys.unraisablehook = _told_by_the_collector
    threading.excepthook = _told_by_a_thread


def _told_at_the_end(
    kind: type[BaseException], error: BaseException, trace_back: TracebackType | None
) -> None:
    log.critical("ended by %s", _named(kind, error), exc_info=(kind, error, trace_back))


def _told_by_a_thread(told: threading.ExceptHookArgs) -> None:
    error = told.exc_value or told.exc_type()
    name = told.thread.name if told.thread else "a thread"
    log.error(
        "%s ended by %s", name, _named(told.exc_type, error),
        exc_info=(told.exc_type, error, told.exc_traceback),
    )  # fmt: skip


def _told_by_the_collector(told: "sys.UnraisableHookArgs") -> None:
    error = told.exc_value or told.exc_type()
    log.error(
        "%s in %r", _named(told.exc_type, error), told.object,
        exc_info=(told.exc_type, error, told.exc_traceback),
    )  # fmt: skip


def _named(kind: type[BaseException], error: BaseException) -> str:
    return f"{kind.__name__}: {error}"
