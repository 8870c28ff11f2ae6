from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from server.batching import Batcher
from server.problem import Problem


class Recorder:
    """A model that doubles, and remembers the batches and threads it was run on."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()

    def predict(self, rows: Any) -> list[Any]:
        assert self.go.wait(10)
        self.batches.append(rows[:, 0].tolist())
        self.threads.add(threading.get_ident())
        if (rows < 0).any():
            raise Problem(422, "model_failed", "negative")
        return (rows[:, 0] * 2).tolist()


def rows(*values: float) -> Any:
    return np.array([[value] for value in values], dtype=np.float64)


def run(test: Callable[[Batcher, Recorder], Awaitable[None]], *, inline_rows: int, max_rows: int = 100) -> Recorder:
    async def main() -> Recorder:
        model = Recorder()
        batcher = Batcher(model.predict, inline_rows=inline_rows, max_rows=max_rows, on_batch=lambda *_: None)
        await asyncio.wait_for(test(batcher, model), 20)
        assert batcher.waiting_rows == 0
        return model

    return asyncio.run(main())


@pytest.mark.parametrize("inline_rows", [0, 100])
def test_a_lone_request_runs_alone(inline_rows: int) -> None:
    async def test(batcher: Batcher, _: Recorder) -> None:
        assert await batcher.predict(rows(1)) == [2]
        assert await batcher.predict(rows(2, 3)) == [4, 6]

    assert run(test, inline_rows=inline_rows).batches == [[1], [2, 3]]


def test_small_batches_run_on_the_loop_and_large_ones_on_the_thread() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        await batcher.predict(rows(1, 2))
        assert model.threads == {threading.get_ident()}
        await batcher.predict(rows(1, 2, 3))
        assert len(model.threads) == 2

    run(test, inline_rows=2)


def test_what_arrives_while_the_model_is_busy_becomes_one_batch() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        model.go.clear()
        first = asyncio.create_task(batcher.predict(rows(1)))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.predict(rows(value))) for value in range(2, 6)]
        await asyncio.sleep(0.01)
        assert batcher.waiting_rows == 4
        model.go.set()
        assert await first == [2]
        assert [await other for other in others] == [[4], [6], [8], [10]]

    assert run(test, inline_rows=0).batches == [[1], [2, 3, 4, 5]]


def test_a_full_queue_sheds_with_an_honest_retry_after() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        model.go.clear()
        running = asyncio.create_task(batcher.predict(rows(0)))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(batcher.predict(rows(1, 2, 3)))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as error:
            await batcher.predict(rows(4, 5))
        assert error.value.status == 429
        assert int(dict(error.value.headers)["retry-after"]) >= 1
        fits = asyncio.create_task(batcher.predict(rows(6)))
        model.go.set()
        assert (await running, await waiting, await fits) == ([0], [2, 4, 6], [12])

    assert run(test, inline_rows=0, max_rows=4).batches == [[0], [1, 2, 3, 6]]


def test_a_burst_is_admitted_up_to_the_bound_and_runs_as_one_batch() -> None:
    async def test(batcher: Batcher, _: Recorder) -> None:
        answers = await asyncio.gather(*(batcher.predict(rows(value)) for value in range(7)), return_exceptions=True)
        assert answers[:4] == [[0], [2], [4], [6]]
        assert all(isinstance(answer, Problem) for answer in answers[4:])

    assert run(test, inline_rows=0, max_rows=4).batches == [[0, 1, 2, 3]]


@pytest.mark.parametrize("inline_rows", [0, 100])
def test_one_failing_request_does_not_fail_those_beside_it(inline_rows: int) -> None:
    async def test(batcher: Batcher, _: Recorder) -> None:
        answers = await asyncio.gather(*(batcher.predict(rows(value)) for value in (1, -1, 3)), return_exceptions=True)
        assert (answers[0], answers[2]) == ([2], [6])
        assert isinstance(answers[1], Problem)
        assert await batcher.predict(rows(4)) == [8]

    run(test, inline_rows=inline_rows)


def test_a_cancelled_request_is_not_computed() -> None:
    async def test(batcher: Batcher, model: Recorder) -> None:
        model.go.clear()
        running = asyncio.create_task(batcher.predict(rows(1)))
        await asyncio.sleep(0.01)
        left = asyncio.create_task(batcher.predict(rows(2)))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        model.go.set()
        await running

        assert await batcher.predict(rows(3)) == [6]

    assert run(test, inline_rows=0).batches == [[1], [3]]


@pytest.mark.parametrize("inline_rows", [0, 3, 1000])
def test_answers_never_cross_requests(inline_rows: int) -> None:
    async def test(batcher: Batcher, _: Recorder) -> None:
        sizes = [1 + value % 3 for value in range(2000)]
        wanted = [[value + row / 8 for row in range(size)] for value, size in enumerate(sizes)]
        answers = await asyncio.gather(*(batcher.predict(rows(*values)) for values in wanted))
        assert answers == [[2 * value for value in values] for values in wanted]

    run(test, inline_rows=inline_rows, max_rows=10_000)
