"""The environment -> one frozen settings object, read once at the start; all mistakes are reported together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .errors import StartError

T = TypeVar("T")

DEFAULT_MODEL_DIR = Path(__file__).resolve().parents[1] / "model"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each field is the environment variable of the same name in capitals."""

    model_dir: Path
    """Folder with model.onnx and model.json."""
    host: str
    """Address to listen on."""
    port: int
    """Port to listen on; 0 takes a free one, named in the `ready` log line."""
    listen_fd: int | None
    """An inherited listening socket; `host` and `port` are then unused."""
    ready_fd: int | None
    """An inherited descriptor: a line is written to it, and it is closed, when requests are answered from now on."""
    api_key: bytes | None
    """What predictions must carry as a bearer token (the content of API_KEY_FILE); None: open to everyone."""
    drain_seconds: float
    """After SIGTERM: how long connections are still accepted while the balancer takes note of `ready: false`."""
    grace_seconds: float
    """After the drain: the longest wait for requests in flight."""
    log_level: str
    """debug (one line a request), info, warning or error."""
    max_body_bytes: int
    """Longest request body; a longer one is answered with 413."""
    max_rows: int
    """Most rows in one request."""
    max_queue_rows: int
    """Most rows that wait for the model at any time; more are shed with 429."""
    max_queue_bytes: int
    """Most bytes of requests that are read or wait for the model at any time; more are shed with 429."""
    queue_seconds: float
    """The longest wait for the model that a request may expect; it is shed with 429 when it would be longer."""
    timeout_ms: int
    """How long a request may wait for the model, unless it says so itself (X-Request-Timeout-Ms); then 504."""
    read_seconds: float
    """How long a client may take to send a request; then 408."""
    prediction_log: Path | None
    """File that predictions are logged to, one JSON object a line; its folder must exist. None: they are not."""
    prediction_log_rate: float
    """Share of the requests that is logged, 0 to 1."""
    prediction_log_inputs: bool
    """Whether inputs and request ids are logged as they came (true); else (false) only outputs and the ids' digests."""
    prediction_log_bytes: int
    """Size at which the log's file is set aside; three old ones are kept."""

    def __repr__(self) -> str:
        """Without the key."""
        return f"Settings(model_dir={self.model_dir}, host={self.host}, port={self.port})"


def _number(kind: Callable[[str], T], low: float, high: float, what: str) -> Callable[[str], T]:
    def parse(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(f"must be {what} from {low} to {high}")
        return value

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    return _number(int, low, high, "a whole number")


def _seconds(high: float) -> Callable[[str], float]:
    return _number(float, 0, high, "a number of seconds")


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _log_level(text: str) -> str:
    if text not in ("debug", "info", "warning", "error"):
        raise ValueError("must be debug, info, warning or error")
    return text


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _path(text: str) -> Path:
    return Path(_not_empty(text))


def _key(text: str) -> bytes:
    try:
        key = Path(_not_empty(text)).read_bytes().strip()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if not key:
        raise ValueError("names an empty file")
    if not all(0x21 <= byte <= 0x7E for byte in key):
        raise ValueError("names a file with more than one word of printable characters")
    return key


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.mistakes: list[str] = []

    def read(self, name: str, parse: Callable[[str], T], default: T) -> T:
        text = self.environment.get(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as mistake:
            self.mistakes.append(f"{name}={text!r} {mistake}")
            return default


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings, or a StartError that lists every mistake in the environment."""
    reader = _Reader(environment)
    no_fd: int | None = None
    no_key: bytes | None = None
    no_file: Path | None = None
    settings = Settings(
        model_dir=reader.read("MODEL_DIR", _path, DEFAULT_MODEL_DIR),
        host=reader.read("HOST", _not_empty, "0.0.0.0"),  # noqa: S104 - a container is reached from outside
        port=reader.read("PORT", _whole(0, 65535), 8080),
        listen_fd=reader.read("LISTEN_FD", _whole(3, 65535), no_fd),
        ready_fd=reader.read("READY_FD", _whole(3, 65535), no_fd),
        api_key=reader.read("API_KEY_FILE", _key, no_key),
        drain_seconds=reader.read("DRAIN_SECONDS", _seconds(3600), 1.0),
        grace_seconds=reader.read("GRACE_SECONDS", _seconds(3600), 25.0),
        log_level=reader.read("LOG_LEVEL", _log_level, "info"),
        max_body_bytes=reader.read("MAX_BODY_BYTES", _whole(1, 2**30), 4 * 2**20),
        max_rows=reader.read("MAX_ROWS", _whole(1, 10**6), 4096),
        max_queue_rows=reader.read("MAX_QUEUE_ROWS", _whole(1, 10**7), 4096),
        max_queue_bytes=reader.read("MAX_QUEUE_BYTES", _whole(1, 2**40), 128 * 2**20),
        queue_seconds=reader.read("QUEUE_SECONDS", _seconds(3600), 5.0),
        timeout_ms=reader.read("TIMEOUT_MS", _whole(1, 3_600_000), 30_000),
        read_seconds=reader.read("READ_SECONDS", _number(float, 0.1, 3600, "a number of seconds"), 30.0),
        prediction_log=reader.read("PREDICTION_LOG", _path, no_file),
        prediction_log_rate=reader.read("PREDICTION_LOG_RATE", _number(float, 0, 1, "a number"), 1.0),
        prediction_log_inputs=reader.read("PREDICTION_LOG_INPUTS", _boolean, False),
        prediction_log_bytes=reader.read("PREDICTION_LOG_BYTES", _whole(1024, 2**40), 64 * 2**20),
    )
    if settings.max_body_bytes > settings.max_queue_bytes:
        reader.mistakes.append(
            f"MAX_BODY_BYTES={settings.max_body_bytes} must not be above MAX_QUEUE_BYTES={settings.max_queue_bytes}"
        )
    if reader.mistakes:
        raise StartError("; ".join(reader.mistakes))
    return settings
