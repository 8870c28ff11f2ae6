"""Failures as values: a Problem is an answer to a client, a StartError a reason not to start."""

from __future__ import annotations

from . import log


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
        field: str = "",
        inner: str = "",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.path = path
        self.row = row
        """Index of the row at fault, where whoever raises knows it but not its path."""
        self.field = field
        """Input at fault in that row; empty: the row as a whole."""
        self.inner = inner
        """JSON path within that input's value, e.g. `.address[0]`."""
        self.headers = headers

    def at(self, path: str) -> Problem:
        """Return the same problem, of the field at `path`."""
        return Problem(self.status, self.code, self.message, path=path, headers=self.headers)


class OutOfMemory(Problem):
    """An allocation failed. 503 and not 507: another replica, or this one in a moment, may have the memory."""

    def __init__(self) -> None:
        message = "the server had too little memory for this request; its log says more"
        super().__init__(503, "out_of_memory", message, headers=(("retry-after", "1"),))


class StartError(Exception):
    """The server cannot start; the message says why and what to change."""


def problem_of(error: Exception, event: str, **fields: object) -> Problem:
    """Return the answer to a failure; it is logged as `event`, unless it is a Problem, which is about the request."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, MemoryError):
        log.error("out_of_memory", reason=str(error), **fields)
        return OutOfMemory()
    log.logger.error(event, exc_info=error, extra={"fields": fields})
    return Problem(500, "internal_error", "the server failed; its log says why")
