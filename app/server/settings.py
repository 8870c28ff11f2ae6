"""Read the server's settings from the environment, once, at the start.

A field of `Settings` is the environment variable of its name in capitals; its type and Meta are the variable's rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo, fields

from .errors import StartError

_LEAST_BODIES = 4
"""So many of the longest bodies the backlog holds, where the model decides how long they may be."""
DEFAULT_MODEL_DIR = Path(__file__).resolve().parents[1] / "model"


class ApiKey(bytes):
    """The key that predictions must carry, without a representation that could end in a log."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ApiKey(...)"

    __str__ = __repr__


class Least(int):
    """A number that stands where the variable is not set, and that the model may raise."""


class Origins(frozenset[bytes]):
    """Web origins, each as a browser's Origin header has it."""


def _about(description: str) -> Meta:
    return Meta(description=description)


def _from(low: float, high: float, unit: str, description: str) -> Meta:
    return Meta(ge=low, le=high, description=description, extra={"unit": unit})


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename=str.upper):
    """The settings of the process; a variable that is not set leaves its field at the default."""

    model_dir: Annotated[Path, _about("Folder with model.json and the model's file.")] = DEFAULT_MODEL_DIR
    host: Annotated[
        str,
        Meta(pattern=r"\S", description="Address to listen on; `::` is every one, IPv6 (if there is) and IPv4."),
    ] = "::"
    port: Annotated[
        int, _from(0, 65535, "", "Port to listen on; 0 takes a free one, named in the `ready` log line.")
    ] = 8080
    listen_fd: (
        Annotated[int, _from(3, 65535, "", "Inherited listening socket, in the place of HOST and PORT.")] | None
    ) = None
    ready_fd: (
        Annotated[
            int, _from(3, 65535, "", "Inherited descriptor: gets a line, and is closed, once predictions are answered.")
        ]
        | None
    ) = None
    api_key: (
        Annotated[ApiKey, _about("File with the bearer token that predictions must carry; not set: open to everyone.")]
        | None
    ) = msgspec.field(default=None, name="API_KEY_FILE")
    cors_origins: (
        Annotated[
            Origins,
            _about(
                "Origins whose pages may read the answers, such as https://app.example.com, separated by commas; "
                "not set: none."
            ),
        ]
        | None
    ) = None
    drain_seconds: Annotated[
        float,
        _from(
            0, 3600, "seconds", "After SIGTERM: how long connections are accepted while balancers see `ready: false`."
        ),
    ] = 1.0
    grace_seconds: Annotated[
        float, _from(0, 3600, "seconds", "After the drain: longest wait for requests in flight.")
    ] = 25.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("Least level that is logged; debug has a line a request.")
    ] = "info"
    max_body_bytes: Annotated[
        int,
        _from(
            1,
            2**30,
            "bytes",
            "Longest request body, at most MAX_QUEUE_BYTES; a longer one is answered with 413. Not set: more where the"
            " model's own sizes need it, such as 16 MiB for pictures.",
        ),
    ] = Least(4 * 2**20)
    max_rows: Annotated[int, _from(1, 10**6, "rows", "Most rows in one request; more are answered with 413.")] = 4096
    max_queue_rows: Annotated[int, _from(1, 10**7, "rows", "Most rows in the backlog; more are shed with 429.")] = 4096
    max_queue_bytes: Annotated[
        int,
        _from(
            1,
            2**40,
            "bytes",
            "Most bytes of requests that are being read, and of bodies and decoded rows in the backlog;"
            " more are shed with 429.",
        ),
    ] = 128 * 2**20
    queue_seconds: Annotated[
        float,
        _from(0, 3600, "seconds", "Longest expected wait for the model; a request that would wait longer gets 429."),
    ] = 5.0
    timeout_ms: Annotated[
        int,
        _from(
            1,
            3_600_000,
            "milliseconds",
            "Longest wait for the model, unless X-Request-Timeout-Ms sets another; then 504.",
        ),
    ] = 30_000
    max_streams: Annotated[
        int, _from(1, 10**5, "answers", "Most answers sent piece by piece at a time; more are shed with 429.")
    ] = 32
    stream_seconds: Annotated[
        float,
        _from(0.1, 86_400, "seconds", "Longest time of an answer sent piece by piece; then it ends with an error."),
    ] = 300.0
    read_seconds: Annotated[
        float, _from(0.1, 3600, "seconds", "Longest time that a client may take to send a request; then 408.")
    ] = 30.0
    prediction_log: (
        Annotated[
            Path, _about("File to log predictions to, one JSON object a line, in a folder that exists; not set: none.")
        ]
        | None
    ) = None
    prediction_log_rate: Annotated[float, _from(0, 1, "", "Share of the requests that is logged.")] = 1.0
    prediction_log_inputs: Annotated[
        bool, _about("Whether inputs and request ids are logged as they came; else only outputs and the ids' digests.")
    ] = False
    prediction_log_bytes: Annotated[
        int, _from(1024, 2**40, "bytes", "Size at which the prediction log is rotated; three old files are kept.")
    ] = 64 * 2**20


class Variable(NamedTuple):
    """One environment variable, as text for a reference page."""

    name: str
    type: str
    unit: str
    """Empty for what has none."""
    default: str
    """Empty where the description says what an unset variable means."""
    rule: str
    """Completes "must be ..."."""
    description: str


class SettingsError(StartError):
    """Lists every mistake in the environment."""

    def __init__(self, mistakes: Mapping[str, tuple[str, str]]) -> None:
        """`mistakes` has, by variable, its value and the rule that it breaks."""
        self.mistakes = mistakes
        super().__init__("; ".join(f"{name}={text!r} {rule}" for name, (text, rule) in mistakes.items()))


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises SettingsError."""
    values: dict[str, Any] = {}
    mistakes: dict[str, tuple[str, str]] = {}
    for field in fields(Settings):
        text = environment.get(field.encode_name)
        if text is None:
            continue
        kind = _annotated(field)
        try:
            values[field.name] = msgspec.convert(text, kind, strict=False, dec_hook=_convert)
        except msgspec.ValidationError as error:
            mistakes[field.encode_name] = text, str(error.__cause__ or f"must be {_rule(*get_args(kind))}")
    settings = Settings(**values)
    if settings.max_body_bytes > settings.max_queue_bytes:
        rule = f"must not be above MAX_QUEUE_BYTES, {settings.max_queue_bytes}"
        mistakes["MAX_BODY_BYTES"] = str(settings.max_body_bytes), rule
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def fit_model(settings: Settings, row_bytes: int) -> Settings:
    """Raise the longest body, unless it is set, to what a row of the model may take, as far as the backlog allows."""
    if not isinstance(settings.max_body_bytes, Least):
        return settings
    longest = min(max(settings.max_body_bytes, row_bytes), settings.max_queue_bytes // _LEAST_BODIES)
    return msgspec.structs.replace(settings, max_body_bytes=max(settings.max_body_bytes, longest))


def catalog() -> list[Variable]:
    """Every variable, in the order of the fields: the source of docs/server-settings.md."""
    return [_variable(field) for field in fields(Settings)]


def _variable(field: FieldInfo) -> Variable:
    kind, meta = get_args(_annotated(field))
    default = "" if field.default is None else f"{field.default:g}" if kind is float else str(field.default)
    if field.default == DEFAULT_MODEL_DIR:
        default = "the folder `model` beside the package"
    return Variable(
        name=field.encode_name,
        type=_TYPES.get(kind, "text"),
        unit=_unit(meta),
        default=default.lower() if kind is bool else default,
        rule=_rule(kind, meta),
        description=meta.description,
    )


_TYPES: dict[Any, str] = {int: "whole number", float: "number", bool: "boolean"}


def _annotated(field: FieldInfo) -> Any:
    """The declared type without None, which stands for a variable that is not set, never for the text "null"."""
    alternatives = get_args(field.type)
    return alternatives[0] if NoneType in alternatives else field.type


def _unit(meta: Meta) -> str:
    extra: dict[str, str] = meta.extra or {}
    return extra.get("unit", "")


def _rule(kind: Any, meta: Meta) -> str:
    if kind in (int, float):
        unit = _unit(meta)
        return f"a {_TYPES[kind]}{f' of {unit}' if unit else ''} from {meta.ge} to {meta.le}"
    if kind is bool:
        return "true or false"
    *others, last = get_args(kind) or ("text that is not blank",)
    return f"{', '.join(others)} or {last}" if others else last


def _convert(kind: type[Any], text: str) -> Any:
    """Make a value of a text; a ValueError says, after the variable's value, why that cannot be."""
    if not text.strip():
        raise ValueError("must be text that is not blank")
    if kind is Origins:
        return _parse_origins(text)
    return Path(text) if kind is Path else _read_key(Path(text))


_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([1-9]\d{0,4}))?", re.ASCII)
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}
"""Browsers leave them out."""


def _parse_origins(text: str) -> Origins:
    origins = [origin.strip() for origin in text.split(",")]
    for origin in origins:
        match = _ORIGIN.fullmatch(origin)
        if match is None or (match[1], match[3]) in _DEFAULT_PORTS or int(match[3] or 0) > 65535:
            raise ValueError(
                "must list origins as browsers send them, scheme://host[:port] in lower case, without a path or the "
                f"scheme's own port, separated by commas; {origin!r} is none"
            )
    return Origins(origin.encode() for origin in origins)


def _read_key(path: Path) -> ApiKey:
    try:
        key = ApiKey(path.read_bytes().strip())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if not key:
        raise ValueError("names an empty file")
    if not all(0x21 <= byte <= 0x7E for byte in key):
        raise ValueError("names a file with more than one word of printable characters")
    return key
