"""Why a model is not packaged."""

from __future__ import annotations


class ModelError(Exception):
    """The model cannot be packaged as asked.

    Each of `mistakes` says why, and may go on in indented lines that say what to do about it.
    """

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def one_line(error: BaseException, length: int = 600) -> str:
    """Shorten a library's message to one line of at most `length` characters."""
    return " ".join(str(error).split())[:length]


def first_line(error: BaseException) -> str:
    """The message's first line, or the error's name where there is none; at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
