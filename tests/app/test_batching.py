from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from server import batching
from server.batching import Batcher, BatchSlice, Job, Outcome, QueueLimits
from server.errors import Problem
from server.model.calibration import Calibration
from server.model.inputs import Inputs
from server.model.tensors import Tensors
from tests.app.wire import seeded

pytestmark = pytest.mark.within(20)


class Doubler:
    """A model that doubles, and remembers the batches and threads it was run on. It fails on negative numbers."""

    prepares = sizes_vary = False

    def __init__(
        self, *, inline_rows: int = 0, best_rows: int = 100, seconds_per_row: float = 0.0, row_cost: int = 1
    ) -> None:
        self.calibration = Calibration(
            best_rows=best_rows, inline_rows=inline_rows, seconds_per_row=seconds_per_row, row_cost=row_cost
        )
        self.max_rows: list[int] = []
        self.batches: list[list[float]] = []
        self.threads: set[int] = set()
        self.failure: Exception = Problem(422, "model_failed", "negative")
        self.go = threading.Event()
        self.go.set()

    def prepare(self, inputs: Inputs) -> Inputs:
        raise AssertionError("there is nothing to prepare")

    def row_cost(self, inputs: Tensors) -> int:
        return inputs["x"].shape[1] ** 2 if self.calibration.row_cost > 1 else 1

    def join(self, inputs: list[Inputs]) -> Tensors:
        return {"x": np.concatenate([each["x"] for each in inputs if isinstance(each, dict)])}

    def run(self, inputs: Tensors, max_rows: int) -> Tensors:
        assert self.go.wait(10)
        assert max_rows == self.calibration.best_rows or self.calibration.row_cost > 1
        self.max_rows.append(max_rows)
        values = inputs["x"].reshape(len(inputs["x"]), -1)[:, 0]
        self.batches.append(values.tolist())
        self.threads.add(threading.get_ident())
        if (values < 0).any():
            raise self.failure
        return {"y": values * 2}


class Caller:
    abandoned = False


class Counts:
    """Who counts, and the rows that were seen."""

    def __init__(self) -> None:
        self.shed_count = self.expired_count = self.abandoned_count = 0
        self.seen: list[list[float]] = []
        self.failure: Exception | None = None

    def ran(self, rows: int, inputs: Tensors, outputs: Tensors) -> None:
        assert rows == len(inputs["x"]) == len(outputs["y"])
        self.seen.append(inputs["x"].reshape(rows, -1)[:, 0].tolist())
        if self.failure:
            raise self.failure

    def shed(self) -> None:
        self.shed_count += 1

    def expired(self) -> None:
        self.expired_count += 1

    def abandoned(self) -> None:
        self.abandoned_count += 1


class Side:
    """A batcher with its engine, and what it has answered."""

    def __init__(
        self, engine: Doubler, *, rows: int = 1000, size: int = 10**9, seconds: float = 60.0, sizes_vary: bool = False
    ) -> None:
        self.engine = engine
        self.engine.sizes_vary = sizes_vary
        self.counts = Counts()
        limits = QueueLimits(rows=rows, bytes=size, seconds=seconds)
        self.batcher = Batcher(engine, engine.calibration, limits, self.counts)

    def submit(
        self, *values: float, width: int = 1, size: int = 0, timeout: float | None = None, caller: Caller | None = None
    ) -> asyncio.Future[Any]:
        """The answer to come: the values, or the Problem as an exception."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, BatchSlice):
                assert outcome.end - outcome.first == len(values)
                answer.set_result(outcome.outputs["y"].tolist())
            else:
                answer.set_exception(outcome)

        rows = np.array([[value] * width for value in values])
        job = Job({"x": rows}, len(values), done)
        job.size = size
        job.caller = caller or Caller()
        if timeout is not None:
            clock = batching.time  # pyright: ignore[reportPrivateImportUsage]  # the tests' own, where they set it
            job.deadline = clock.perf_counter() + timeout
        self.batcher.submit(job)
        return answer

    async def occupy(self) -> asyncio.Future[Any]:
        self.engine.go.clear()
        running = self.submit(0)
        await settle()
        assert self.batcher.waiting_rows == 0
        return running

    async def release(self, *answers: asyncio.Future[Any]) -> list[Any]:
        self.engine.go.set()
        return await asyncio.gather(*answers)


MakeSide = Callable[..., Side]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def flat(lists: list[list[Any]]) -> list[Any]:
    return [each for inner in lists for each in inner]


@pytest.fixture
def make_side() -> Iterator[MakeSide]:
    """`make_side(engine, **limits)`; nothing may be left in it when the test ends."""
    made: list[Side] = []

    def make(*arguments: Any, **limits: Any) -> Side:
        made.append(Side(*arguments, **limits))
        return made[-1]

    yield make
    for side in made:
        assert (side.batcher.waiting_rows, side.batcher._bytes, side.batcher._running_rows) == (0, 0, 0)
        assert not side.batcher._busy


@pytest.mark.parametrize("inline_rows", [0, 100])
async def test_a_lone_request_runs_alone_and_at_once(make_side: MakeSide, inline_rows: int) -> None:
    side = make_side(Doubler(inline_rows=inline_rows))
    assert await side.submit(1) == [2]
    assert await side.submit(2, 3) == [4, 6]
    assert side.engine.batches == [[1], [2, 3]]


async def test_a_lone_request_waits_for_nothing_but_the_turn_of_the_loop(make_side: MakeSide) -> None:
    side = make_side(Doubler(inline_rows=1))
    answer = side.submit(1)
    await asyncio.sleep(0)
    assert answer.done()


async def test_small_batches_run_on_the_loop_and_large_ones_on_the_thread(make_side: MakeSide) -> None:
    side = make_side(Doubler(inline_rows=2))
    await side.submit(1, 2)
    assert side.engine.threads == {threading.get_ident()}
    await side.submit(1, 2, 3)
    await side.submit(1, 2, 3)
    assert len(side.engine.threads) == 2


async def test_what_comes_in_one_turn_of_the_loop_is_one_batch(make_side: MakeSide) -> None:
    side = make_side(Doubler(inline_rows=100))
    answers = [side.submit(value) for value in range(4)]
    assert await asyncio.gather(*answers) == [[0], [2], [4], [6]]
    assert side.engine.batches == side.counts.seen == [[0, 1, 2, 3]]


async def test_what_arrives_while_the_model_is_busy_becomes_one_batch(make_side: MakeSide) -> None:
    side = make_side(Doubler())
    first = await side.occupy()
    others = [side.submit(value) for value in range(2, 6)]
    assert side.batcher.waiting_rows == 4
    assert await side.release(first, *others) == [[0], [4], [6], [8], [10]]
    assert side.engine.batches == [[0], [2, 3, 4, 5]]


async def test_batches_are_bounded_and_in_order(make_side: MakeSide) -> None:
    side = make_side(Doubler(best_rows=4))
    first = await side.occupy()
    answers = [side.submit(*values) for values in [(1, 2), (3, 4, 5), (6,), (7, 8, 9, 10, 11), (12,), (13,)]]
    assert flat(await side.release(first, *answers)) == [2 * value for value in range(14)]
    # The fourth is larger than a batch, and goes alone; nobody behind is let past who is before.
    assert side.engine.batches == [[0], [1, 2], [3, 4, 5, 6], [7, 8, 9, 10, 11], [12, 13]]


async def test_different_shapes_never_share_a_run(make_side: MakeSide) -> None:
    side = make_side(Doubler(best_rows=3), sizes_vary=True)
    first = await side.occupy()
    answers = [side.submit(value, width=1 + value % 2) for value in range(1, 8)]
    assert flat(await side.release(first, *answers)) == [2 * value for value in range(8)]
    assert side.engine.batches == [[0], [1, 3, 5], [2, 4, 6], [7]]


async def test_inputs_in_another_order_have_the_same_shape(make_side: MakeSide) -> None:
    side = make_side(Doubler(inline_rows=9), sizes_vary=True)
    jobs = [Job({"x": np.ones((1, 1)), "z": np.ones((1, 2))}, 1, lambda _: None) for _ in range(2)]
    jobs[1].inputs = dict(reversed(jobs[0].inputs.items()))  # type: ignore[union-attr]
    for job in jobs:
        side.batcher.submit(job)
    assert jobs[0].shape == jobs[1].shape
    await settle()
    assert side.engine.batches == [[1, 1]]


# --- batches bounded by what they hold: a row of the tests' model costs its width squared


async def test_a_batch_holds_no_more_than_the_best_one(make_side: MakeSide) -> None:
    side = make_side(Doubler(best_rows=8, row_cost=100), sizes_vary=True)
    first = await side.occupy()
    answers = [side.submit(value, width=20) for value in range(1, 6)]
    answers += [side.submit(value, width=10) for value in range(6, 15)]
    answers += [side.submit(15, width=50), side.submit(16, width=50)]
    assert flat(await side.release(first, *answers)) == [2 * value for value in range(17)]
    # Twice as wide: a quarter of the rows. Wider than a whole batch: alone.
    assert side.engine.batches == [[0], [1, 2], [3, 4], [5], [6, 7, 8, 9, 10, 11, 12, 13], [14], [15], [16]]


async def test_a_request_of_many_large_rows_is_run_in_parts(make_side: MakeSide) -> None:
    side = make_side(Doubler(best_rows=8, row_cost=100), sizes_vary=True)
    assert await side.submit(*range(30), width=20) == [2 * value for value in range(30)]
    assert side.engine.max_rows == [2]


async def test_short_texts_beside_a_long_one_count_as_long(make_side: MakeSide) -> None:
    class Texts(Doubler):
        def row_cost(self, inputs: Tensors) -> int:
            return max(1, int(inputs["x"].max()))

    side = make_side(Texts(best_rows=8, row_cost=10), sizes_vary=True)
    first = await side.occupy()
    values = [1, 2, 40, 3, 4, 5, 6]
    answers = [side.submit(value) for value in values]
    await side.release(first, *answers)
    assert side.engine.batches == [[0], [1, 2], [40, 3], [4, 5, 6]]


async def test_a_large_row_is_not_run_on_the_event_loop(make_side: MakeSide) -> None:
    side = make_side(Doubler(inline_rows=2, best_rows=8, row_cost=100), sizes_vary=True)
    await side.submit(1, width=14)
    assert side.engine.threads == {threading.get_ident()}
    await side.submit(1, width=15)
    assert len(side.engine.threads) == 2


# --- what goes wrong


@pytest.mark.parametrize("inline_rows", [0, 100])
@pytest.mark.parametrize("failure", [Problem(422, "model_failed", "negative"), RuntimeError("surprise"), MemoryError()])
async def test_a_request_fails_alone(make_side: MakeSide, inline_rows: int, failure: Exception) -> None:
    side = make_side(Doubler(inline_rows=inline_rows))
    side.engine.failure = failure
    values = (1, -1, 3, 4, 5, 6, 7, 8)
    answers = await asyncio.gather(*(side.submit(value) for value in values), return_exceptions=True)
    assert answers[:1] + answers[2:] == [[2 * value] for value in values if value > 0]
    assert isinstance(answers[1], Problem)
    expected = {Problem: 422, RuntimeError: 500, MemoryError: 503}
    assert answers[1].status == expected[type(failure)]
    assert await side.submit(4) == [8]
    assert len(side.engine.batches) == 1 + 2 * 3 + 1  # the culprit is searched for by halves
    assert sorted(flat(side.counts.seen)) == [1, 3, 4, 4, 5, 6, 7, 8]


async def test_what_cannot_be_prepared_fails_alone(make_side: MakeSide) -> None:
    class Picky(Doubler):
        prepares = True

        def prepare(self, inputs: Inputs) -> Inputs:
            assert isinstance(inputs, dict)
            if inputs["x"][0] == 13:
                raise Problem(422, "bad_image", "13")
            if inputs["x"][0] == 14:
                raise KeyError
            return {"x": inputs["x"] + 100}

    side = make_side(Picky())
    first, bad, worse, last = await asyncio.gather(*map(side.submit, (1, 13, 14, 2)), return_exceptions=True)
    assert (first, last) == ([202], [204])
    assert [getattr(error, "status", None) for error in (bad, worse)] == [422, 500]
    for value in (13, 14):
        with pytest.raises(Problem):
            await side.submit(value)
    assert side.engine.batches == [[101, 102]]


async def test_answers_that_cannot_be_told_are_a_problem_of_their_request_alone(make_side: MakeSide) -> None:
    side = make_side(Doubler(inline_rows=1))
    told: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        told.append(outcome)
        if len(told) == 1:
            raise ValueError("it cannot be said")

    side.batcher.submit(Job({"x": np.array([[13.0]])}, 1, tell))
    assert await side.submit(1) == [2]
    answer, problem = told
    assert isinstance(answer, BatchSlice)
    assert isinstance(problem, Problem)
    assert problem.status == 500


async def test_a_caller_or_counter_that_fails_holds_up_nobody(make_side: MakeSide) -> None:
    side = make_side(Doubler(inline_rows=9))

    def fail(_: Outcome) -> None:
        raise RuntimeError("the caller is broken")

    side.batcher.submit(Job({"x": np.array([[1.0]])}, 1, fail))
    expired = Job({"x": np.array([[2.0]])}, 1, fail)
    expired.deadline = 0.0
    side.batcher.submit(expired)
    side.counts.failure = RuntimeError("the counter is broken")
    assert await side.submit(3) == [6]
    side.counts.failure = None
    assert await side.submit(4) == [8]


# --- what is not run


async def test_an_expired_request_is_dropped_before_the_run(make_side: MakeSide) -> None:
    side = make_side(Doubler())
    first = await side.occupy()
    late = side.submit(1, 2, timeout=-1)
    timely = side.submit(3, timeout=60)
    assert await side.release(first, timely) == [[0], [6]]
    with pytest.raises(Problem) as error:
        await late
    assert (error.value.status, error.value.code) == (504, "deadline_exceeded")
    assert side.engine.batches == [[0], [3]]
    assert side.counts.expired_count == 1


@pytest.mark.parametrize("inline_rows", [0, 100])
async def test_a_request_whose_client_left_is_not_computed(make_side: MakeSide, inline_rows: int) -> None:
    side = make_side(Doubler(inline_rows=inline_rows))
    caller = Caller()
    left = side.submit(1, caller=caller)
    stays = side.submit(2)
    caller.abandoned = True
    assert await stays == [4]
    await settle()
    assert not left.done()
    left.cancel()
    assert side.engine.batches == [[2]]
    assert side.counts.abandoned_count == 1


async def test_who_leaves_during_the_run_is_not_answered(make_side: MakeSide) -> None:
    side = make_side(Doubler())
    caller = Caller()
    side.engine.go.clear()
    left = side.submit(1, caller=caller)
    await settle()
    caller.abandoned = True
    side.engine.go.set()
    assert await side.submit(2) == [4]
    assert not left.done()


async def test_a_queue_of_which_nothing_is_wanted_leaves_it_idle(make_side: MakeSide) -> None:
    side = make_side(Doubler(inline_rows=9))
    caller = Caller()
    caller.abandoned = True
    side.submit(1, caller=caller)
    late = side.submit(2, timeout=-1)
    await settle()
    assert isinstance(late.exception(), Problem)
    assert await side.submit(3) == [6]
    assert side.engine.batches == [[3]]


async def test_dropping_frees_what_waits_in_vain_and_tells_who_is_there(make_side: MakeSide) -> None:
    side = make_side(Doubler())
    first = await side.occupy()
    callers = [Caller() for _ in range(4)]
    timeouts = [60, -1, 60, -1]
    answers = [
        side.submit(value, value, size=10, timeout=timeout, caller=caller)
        for value, timeout, caller in zip(range(1, 5), timeouts, callers, strict=True)
    ]
    side.batcher.expire_queued()
    assert [answer.done() for answer in answers] == [False, True, False, True]
    callers[2].abandoned = True
    side.batcher.expire_queued()
    side.batcher.expire_queued()
    assert (side.batcher.waiting_rows, side.batcher._bytes) == (2, 10)
    assert (side.counts.expired_count, side.counts.abandoned_count) == (2, 1)
    assert await side.release(first, answers[0]) == [[0], [2, 2]]
    assert [isinstance(answer.exception(), Problem) for answer in (answers[1], answers[3])] == [True, True]
    assert side.engine.batches == [[0], [1, 1]]


@pytest.mark.parametrize("expired_while_queued", [True, False])
async def test_who_is_told_may_ask_again_at_once(make_side: MakeSide, expired_while_queued: bool) -> None:
    """As a client does that has sent its next request ahead."""
    side = make_side(Doubler())
    first = await side.occupy()
    again: list[asyncio.Future[Any]] = []
    for value in (1, 2):
        job = Job({"x": np.array([[value]])}, 1, lambda _: again.append(side.submit(10)))
        job.deadline = 0.0
        side.batcher.submit(job)
    third = side.submit(3)
    if expired_while_queued:
        side.batcher.expire_queued()
        assert side.batcher.waiting_rows == 3
    assert await side.release(first, third) == [[0], [6]]
    assert await asyncio.gather(*again) == [[20], [20]]
    assert sorted(flat(side.engine.batches)) == [0, 3, 10, 10]


# --- what is turned away


def shed(side: Side, *values: float, **options: Any) -> int:
    before = side.counts.shed_count
    with pytest.raises(Problem) as error:
        side.submit(*values, **options)
    assert (error.value.status, error.value.code) == (429, "overloaded")
    assert side.counts.shed_count == before + 1
    return int(dict(error.value.headers)["retry-after"])


async def test_a_full_queue_sheds_and_a_smaller_request_may_still_fit(make_side: MakeSide) -> None:
    side = make_side(Doubler(), rows=4)
    first = await side.occupy()
    waiting = side.submit(1, 2, 3)
    assert shed(side, 4, 5) >= 1
    fits = side.submit(6)
    assert shed(side, 7) >= 1
    assert await side.release(first, waiting, fits) == [[0], [2, 4, 6], [12]]
    assert side.engine.batches == [[0], [1, 2, 3, 6]]


async def test_a_burst_is_admitted_up_to_the_bound_and_runs_as_one_batch(make_side: MakeSide) -> None:
    side = make_side(Doubler(), rows=4)
    answers = [side.submit(value) for value in range(4)]
    for value in range(4, 7):
        shed(side, value)
    assert await asyncio.gather(*answers) == [[0], [2], [4], [6]]
    assert side.engine.batches == [[0, 1, 2, 3]]


async def test_a_large_request_does_not_pass_the_bound_either(make_side: MakeSide) -> None:
    side = make_side(Doubler(), rows=1000)
    first = await side.occupy()
    waiting = side.submit(1)
    shed(side, *range(1000))
    await side.release(first, waiting)
    # But where nothing waits it is taken, however large: it would never be, otherwise.
    assert len(await side.submit(*range(2000))) == 2000


async def test_bytes_are_bounded(make_side: MakeSide) -> None:
    side = make_side(Doubler(), size=100)
    first = await side.occupy()
    waiting = [side.submit(1, size=60), side.submit(2, size=40)]
    shed(side, 3, size=1)
    await side.release(first, *waiting)
    assert await side.submit(4, size=1000) == [8]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Timed(Doubler):
    """Takes a second a row, by the clock."""

    def __init__(self, clock: SimpleNamespace, **options: Any) -> None:
        super().__init__(**options)
        self.clock = clock
        self.pace = 1.0

    def run(self, inputs: Tensors, max_rows: int) -> Tensors:
        outputs = super().run(inputs, max_rows)
        self.clock.now += len(inputs["x"]) * self.pace
        return outputs


async def test_who_would_wait_too_long_is_shed_and_told_how_long(make_side: MakeSide, clock: SimpleNamespace) -> None:
    side = make_side(Timed(clock, best_rows=2, seconds_per_row=0.7), seconds=4.0)
    first = await side.occupy()
    waiting = [side.submit(1, 2)]  # 1 runs, and a whole batch may wait unasked
    assert side.batcher.wait_seconds == 3 * 0.7
    waiting += [side.submit(3), side.submit(4, 5)]
    assert side.batcher.wait_seconds == pytest.approx(6 * 0.7)
    assert shed(side, 6) == 5  # 4.2 seconds, and it may expect 4
    await side.release(first, *waiting)
    assert side.batcher.wait_seconds == 0


async def test_who_could_not_be_answered_in_time_is_told_at_once(make_side: MakeSide, clock: SimpleNamespace) -> None:
    side = make_side(Timed(clock, best_rows=2, seconds_per_row=1.0))
    first = await side.occupy()
    waiting = [side.submit(1, 2)]
    assert shed(side, 3, timeout=2.5) == 3
    waiting.append(side.submit(3, timeout=3.5))
    assert await side.release(first, *waiting) == [[0], [2, 4], [6]]


async def test_the_expected_wait_follows_what_runs_take_under_load(make_side: MakeSide, clock: SimpleNamespace) -> None:
    side = make_side(Timed(clock, best_rows=4, seconds_per_row=1.0), seconds=1e9)
    assert isinstance(side.engine, Timed)
    for _ in range(50):  # one at a time, each slow: that says little about many at once
        side.engine.pace = 9.0
        await side.submit(1)
    assert side.batcher._seconds_per_cost == 1.0
    for pace in (3.0, 0.5):
        side.engine.pace = pace
        first = await side.occupy()
        waiting = [side.submit(value) for value in range(100)]
        await side.release(first, *waiting)
        assert side.batcher._seconds_per_cost == pytest.approx(pace, rel=0.05)
    side.engine.pace = 0.25  # faster than was thought is always true
    for _ in range(50):
        await side.submit(1)
    assert side.batcher._seconds_per_cost == pytest.approx(0.25, rel=0.05)


async def test_a_long_text_left_for_the_next_batch_costs_this_one_nothing(
    make_side: MakeSide, clock: SimpleNamespace
) -> None:
    class Texts(Timed):
        def row_cost(self, inputs: Tensors) -> int:
            return max(1, int(inputs["x"].max()))

    side = make_side(Texts(clock, best_rows=8, seconds_per_row=10.0, row_cost=10), seconds=1e9, sizes_vary=True)
    first = await side.occupy()
    first.add_done_callback(lambda _: side.engine.go.clear())
    answers = [side.submit(value) for value in (4, 5, 40)]
    await side.release(first)
    await settle()
    assert side.batcher.wait_seconds == 2 * 5 + 40
    await side.release(*answers)


# --- any sequence


@pytest.mark.parametrize("seed", range(40))
async def test_after_any_sequence_all_are_answered_and_nothing_is_left(make_side: MakeSide, seed: int) -> None:
    rng = seeded(seed)
    engine = Doubler(inline_rows=rng.choice([0, 3, 100]), best_rows=rng.choice([1, 4, 16]))
    engine.failure = rng.choice([Problem(422, "model_failed", "negative"), ZeroDivisionError()])
    side = make_side(engine, rows=40, size=300, sizes_vary=True)
    asked: list[tuple[list[float], bool, asyncio.Future[Any]]] = []
    callers: list[Caller] = []
    for number in range(300):
        match rng.randrange(8):
            case 0:
                await asyncio.sleep(0)
            case 1:
                side.batcher.expire_queued()
            case 2:
                rng.choice(callers or [Caller()]).abandoned = True
            case 3:
                engine.go.set()
                await settle()
            case 4:
                if engine.calibration.inline_rows == 0:
                    engine.go.clear()
            case _:
                values = [number + row / 8 for row in range(rng.choice([1, 1, 2, 5]))]
                if rng.random() < 0.1:
                    values[-1] *= -1
                callers.append(Caller())
                options = {"size": rng.randrange(50), "timeout": rng.choice([None, 60, -1]), "caller": callers[-1]}
                try:
                    answer = side.submit(*values, width=rng.randint(1, 2), **options)
                except Problem as problem:
                    assert problem.status == 429  # noqa: PT017  # it need not be raised
                    callers.pop()
                    continue
                asked.append((values, options["timeout"] == -1, answer))
                assert side.batcher.waiting_rows <= 40 or len(side.batcher._queue) == 1
                assert side.batcher._bytes <= 300 or len(side.batcher._queue) == 1
    engine.go.set()
    while side.batcher._busy:
        await asyncio.sleep(0.001)
    for (values, late, answer), caller in zip(asked, callers, strict=True):
        if not answer.done():
            assert caller.abandoned
            answer.cancel()
        elif late or min(values) < 0:
            error = answer.exception()
            assert isinstance(error, Problem)
            assert error.status in ((504,) if late else (422, 500))
        else:
            assert answer.result() == [2 * value for value in values]
    ran = flat(side.counts.seen)
    assert len(ran) == len(set(ran))
    assert all(len(batch) <= max(engine.calibration.best_rows, 5) for batch in engine.batches)


@pytest.mark.parametrize("inline_rows", [0, 3, 1000])
async def test_answers_never_cross_requests(make_side: MakeSide, inline_rows: int) -> None:
    side = make_side(Doubler(inline_rows=inline_rows), rows=10_000)
    sizes = [1 + value % 3 for value in range(2000)]
    wanted = [[value + row / 8 for row in range(size)] for value, size in enumerate(sizes)]
    answers = await asyncio.gather(*(side.submit(*values) for values in wanted))
    assert answers == [[2 * value for value in values] for values in wanted]


def test_steps_of_streams_and_batches_take_turns_on_one_thread() -> None:
    async def run() -> list[str]:
        model, order, threads = Doubler(inline_rows=100), list[str](), set[int]()
        limits = QueueLimits(rows=100, bytes=10**6, seconds=10)
        batcher = batching.StreamBatcher(model, model.calibration, limits, Counts())

        def submit(name: str, left: int) -> None:
            def done(_: None) -> None:
                order.append(name)
                if left > 1:
                    submit(name, left - 1)

            batcher.submit_step(lambda: threads.add(threading.get_ident()), done)

        def predict(left: int) -> None:
            def done(_: Outcome) -> None:
                order.append("batch")
                if left > 1:
                    predict(left - 1)

            batcher.submit(Job({"x": np.ones((1, 1))}, 1, done))

        submit("a", 3)
        submit("b", 5)
        predict(4)
        while not (order.count("b") == 5 and order.count("batch") == 4):
            await asyncio.sleep(0.001)
        assert len(threads) == 1
        await asyncio.sleep(0.01)
        assert batcher.idle
        return order

    order = asyncio.run(run())
    assert order[:7] == ["a", "batch", "b", "batch", "a", "batch", "b"]
    assert order[-2:] == ["b", "b"]
