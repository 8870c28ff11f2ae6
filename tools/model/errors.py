"""Errors of packaging."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager


def one_line(error: BaseException) -> str:
    """Shorten a library's message to one line of at most 600 characters."""
    return " ".join(str(error).split())[:600]


def named(error: BaseException) -> str:
    """The message on one line behind the error's name, for libraries whose message is often the culprit alone."""
    return f"{type(error).__name__}: {one_line(error)}"


def first_line(error: BaseException) -> str:
    """The message's first line, or the error's name where there is none; at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


class ModelError(Exception):
    """The model cannot be packaged as asked.

    Each of `mistakes` says why, and may go on in indented lines that say what to do about it. `needs` has a value for
    each option without which the same command fails again: the report's last line is that command.
    """

    def __init__(self, *mistakes: str, needs: Mapping[str, str] | None = None) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
        self.needs = dict(needs or {})


class ConversionError(ModelError):
    """The model cannot be had as ONNX with the original's answers, but its own library may serve it."""


@contextmanager
def explained(what: str, why: Callable[[Exception], str] = one_line) -> Generator[None]:
    """Turn what a library raises, whose errors share no base class, into a ModelError: `what`, and why in its words."""
    try:
        yield
    except Exception as error:
        raise ModelError(f"{what}: {why(error)}") from None
