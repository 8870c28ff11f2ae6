"""Failures as values: a Problem is an answer to a client, a StartError a reason not to start."""

from __future__ import annotations


class Problem(Exception):  # noqa: N818  # an answer, not a failure of the server
    """An error answer: HTTP status, stable code, a sentence for people, and the JSON path of the field at fault."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        path: str | None = None,
        row: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.path = path
        self.row = row
        """Index of the row at fault, where whoever raises knows it but not its path."""
        self.headers = headers

    def at(self, path: str) -> Problem:
        """Return the same problem, of the field at `path`."""
        return Problem(self.status, self.code, self.message, path=path, headers=self.headers)


class StartError(Exception):
    """The server cannot start; the message says why and what to change."""
