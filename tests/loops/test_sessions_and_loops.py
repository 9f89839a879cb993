"""Loops through the public doors: who is counted with whom, what is done about it, tools that are not cached."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    ConfigurationError,
    LoopEvent,
    LoopPolicy,
    get_metrics,
    watched,
)
from agent_cache.engine import guard

HUGE = 10**9


def live(function: Callable[..., Any], **options: Any) -> Any:
    """A cached tool whose answers are not kept: each call runs."""
    return AgentCache("live", cache_if=lambda _: False, **options)(function)


# -- made at once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
async def test_a_gather_of_a_hundred_is_one(kept: bool) -> None:
    @AgentCache("r", cache_if=lambda _: kept)
    async def look() -> int:
        await asyncio.sleep(0)
        return 1

    async with AgentCacheSession():
        for _ in range(5):
            await asyncio.gather(*(look() for _ in range(100)))
        with pytest.raises(AgentLoopDetectedError):
            await asyncio.gather(*(look() for _ in range(100)))


def test_calls_that_overlap_in_threads_are_one() -> None:
    barrier = threading.Barrier(10)

    @watched
    def look() -> int:
        barrier.wait(30)
        return 1

    with AgentCacheSession(max_tool_repeats=3), ThreadPoolExecutor(10) as pool:
        contexts = [contextvars.copy_context() for _ in range(10)]
        assert list(pool.map(lambda context: context.run(look), contexts)) == [1] * 10


def test_calls_of_one_batch_in_threads_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(guard, "_now", lambda: now[0])
    look = live(lambda: 1)
    with AgentCacheSession(), ThreadPoolExecutor(1) as pool:

        def batch(size: int) -> None:
            for _ in range(size):  # one after the other on one thread, as a pool does with calls that take no time
                pool.submit(contextvars.copy_context().run, look).result()
            now[0] += 1.0  # the model thinks

        for _ in range(5):
            batch(20)
        with pytest.raises(AgentLoopDetectedError):
            batch(1)


def test_in_threads_one_after_the_other_is_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(guard, "_now", lambda: now[0])
    look = live(lambda: 1)

    def call() -> None:
        now[0] += 1.0
        thread = threading.Thread(target=contextvars.copy_context().run, args=(kept, look))
        thread.start()
        thread.join(30)

    errors: list[BaseException] = []

    def kept(tool: Callable[[], int]) -> None:
        try:
            tool()
        except AgentLoopDetectedError as error:
            errors.append(error)

    with AgentCacheSession():
        for _ in range(5):
            call()
        assert errors == []
        call()
    assert [type(error) for error in errors] == [AgentLoopDetectedError]


async def test_a_new_task_for_each_call_is_no_disguise() -> None:
    look = live(one)
    async with AgentCacheSession():
        for _ in range(5):
            await asyncio.create_task(look())
        with pytest.raises(AgentLoopDetectedError):
            await asyncio.create_task(look())


async def one() -> int:
    return 1


async def test_what_was_made_together_is_stopped_together() -> None:
    runs = []

    @AgentCacheInvalidator("r")
    async def put(value: int) -> str:
        runs.append(value)
        await asyncio.sleep(0)
        return "done"

    async with AgentCacheSession() as session:
        for _ in range(5):
            await put(1)
        stopped = await asyncio.gather(*(put(1) for _ in range(10)), return_exceptions=True)
        assert [type(each) for each in stopped] == [AgentLoopDetectedError] * 10
        assert session.get_metrics()["loop_detections"] == 1
    assert len(runs) == 5


async def test_a_batch_takes_one_stage() -> None:
    tool = live(one)
    async with AgentCacheSession(on_loop="staged") as session:
        for _ in range(5):
            await tool()
        for _ in range(2):
            assert await asyncio.gather(*(tool() for _ in range(10))) == [1] * 10
        assert len(session.take_hints()) == 2
        stopped = await asyncio.gather(*(tool() for _ in range(10)), return_exceptions=True)
    assert {type(each) for each in stopped} == {AgentLoopDetectedError}


# -- agents side by side -------------------------------------------------------------------------------------------------


async def test_staggered_agents_of_one_session_do_not_count_for_each_other() -> None:
    look = live(one)
    start = [asyncio.Event() for _ in range(9)]
    done = asyncio.Event()

    async def agent(number: int) -> None:
        for _ in range(2):
            await start[number].wait()
            await look()
            start[number].clear()
            start[(number + 1) % len(start)].set()
            await asyncio.sleep(0)
        if number == len(start) - 1:
            done.set()
        await done.wait()

    async with AgentCacheSession():
        agents = [asyncio.create_task(agent(number)) for number in range(len(start))]
        start[0].set()
        await asyncio.gather(*agents)


async def test_an_agent_that_circles_beside_others_is_found() -> None:
    look = live(one)
    rest = asyncio.Event()

    async def quiet() -> None:
        await look()
        await rest.wait()

    async def circling() -> int:
        for number in range(100):
            await asyncio.sleep(0)
            try:
                await look()
            except AgentLoopDetectedError:
                return number
        return -1

    async with AgentCacheSession():
        others = [asyncio.create_task(quiet()) for _ in range(3)]
        await asyncio.sleep(0)
        assert await asyncio.create_task(circling()) == 5
        rest.set()
        await asyncio.gather(*others)


async def test_more_agents_than_are_told_apart() -> None:
    look = live(one)
    rest = asyncio.Event()
    caught = []

    async def agent() -> None:
        try:
            await look()
        except AgentLoopDetectedError as error:
            caught.append(error)
        await rest.wait()

    async with AgentCacheSession(max_execution_depth=HUGE):
        agents = []
        for _ in range(15):
            agents.append(asyncio.create_task(agent()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert caught == []
        for _ in range(30):
            agents.append(asyncio.create_task(agent()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert caught != []
        rest.set()
        await asyncio.gather(*agents)


async def test_a_nested_session_counts_by_itself() -> None:
    look = live(one)
    async with AgentCacheSession():
        for _ in range(3):
            await look()
        async with AgentCacheSession():
            for _ in range(5):
                await look()
        for _ in range(2):
            await look()
        with pytest.raises(AgentLoopDetectedError):
            await look()


# -- what is done about it -----------------------------------------------------------------------------------------------


async def test_staged_hints_then_answers_then_raises() -> None:
    runs = []

    async def search(q: str) -> str:
        runs.append(q)
        return "no hits"

    tool = live(search)
    async with AgentCacheSession(on_loop="staged") as session:
        for _ in range(5):
            assert await tool("x") == "no hits"
        assert session.take_hints() == ()
        assert await tool("x") == "no hits"
        (hint,) = session.take_hints()
        assert "search(q='x') has been called 5 times" in hint.hint
        assert "no hits" in hint.hint
        assert len(runs) == 6
        assert await tool("x") == "no hits"
        assert len(runs) == 6
        assert len(session.take_hints()) == 1
        with pytest.raises(AgentLoopDetectedError):
            await tool("x")
    assert session.get_metrics()["loop_detections"] == get_metrics()["loop_detections"] == 3


async def test_a_staged_cycle_is_one_matter_and_not_one_per_call() -> None:
    tool = live(one_of)
    async with AgentCacheSession(on_loop="staged") as session:
        for step in range(8):
            await tool(step % 2)
        await tool(0)
        await tool(1)
        with pytest.raises(AgentLoopDetectedError) as caught:
            await tool(0)
        assert caught.value.kind == "alternation"
        assert len(session.take_hints()) == 2


async def one_of(number: int) -> int:
    return number


async def test_staged_begins_anew_after_progress() -> None:
    answers = iter(["a"] * 5 + ["b"] * 6)

    async def look() -> str:
        return next(answers)

    tool = live(look)
    async with AgentCacheSession(on_loop="staged") as session:
        for _ in range(10):
            await tool()
        assert len(session.take_hints()) == 1
        assert await tool() == "b"  # a hint once more, and not from memory
        assert len(session.take_hints()) == 1


async def test_a_staged_write_is_never_answered_from_memory() -> None:
    runs = []

    @AgentCacheInvalidator("r")
    async def put(value: int) -> str:
        runs.append(value)
        return "done"

    async with AgentCacheSession(on_loop="staged"):
        for _ in range(6):
            await put(1)
        with pytest.raises(AgentLoopDetectedError):
            await put(1)
    assert len(runs) == 6


async def test_writes_may_warn(caplog: pytest.LogCaptureFixture) -> None:
    @AgentCacheInvalidator("r")
    async def put(value: int) -> str:
        return "done"

    async with AgentCacheSession(on_loop="warn"):
        for _ in range(9):
            assert await put(1) == "done"
    assert len(caplog.records) == 1


async def test_raise_raises_at_the_threshold_and_hints_nothing() -> None:
    tool = live(one)
    async with AgentCacheSession(max_tool_repeats=3) as session:
        for _ in range(3):
            await tool()
        with pytest.raises(AgentLoopDetectedError):
            await tool()
        assert session.take_hints() == ()


async def test_what_the_error_carries() -> None:
    tool = live(one_of)
    async with AgentCacheSession() as session:
        await tool(7)
        for _ in range(5):
            await tool(1)
        with pytest.raises(AgentLoopDetectedError) as caught:
            await tool(1)
    event = caught.value.event
    assert (event.kind, event.period, event.count, event.tool, event.arguments) == (
        "repeat", 1, 5, "one_of", {"number": "1"}
    )  # fmt: skip
    assert (event.first_step, event.last_step, event.session_id) == (2, 6, session.session_id)
    assert [call.step for call in event.evidence] == [2, 3, 4, 5, 6]
    assert {call.outcome for call in event.evidence} == {"1"}
    assert caught.value.evidence == event.evidence == event.calls


async def test_new_turn_forgets_hints_and_stages() -> None:
    tool = live(one)
    async with AgentCacheSession(on_loop="staged") as session:
        for _ in range(2):
            for _ in range(6):
                await tool()
            session.new_turn()
            assert session.take_hints() == ()


# -- what one tool says of itself ------------------------------------------------------------------------------------------


async def test_a_tool_has_its_own_limit() -> None:
    async def look() -> int:
        return 1

    eager, patient = live(look, max_tool_repeats=2), live(look, max_tool_repeats=8)
    async with AgentCacheSession():
        for tool, limit in ((eager, 2), (patient, 8)):
            for _ in range(limit):
                await tool()
            with pytest.raises(AgentLoopDetectedError):
                await tool()


@pytest.mark.parametrize("loop_key", [["path"], "path", lambda arguments: arguments["path"]])
async def test_free_text_left_out_of_the_loop_key(loop_key: Any) -> None:
    async def read(path: str, reason: str) -> str:
        return f"text of {path}"

    tool = live(read, loop_key=loop_key)
    async with AgentCacheSession():
        for number in range(5):
            await tool("a", f"reason {number}")
        await tool("b", "another")
        with pytest.raises(AgentLoopDetectedError):
            await tool("a", "one more")


async def test_short_circuit_never_answers_with_another_calls_result() -> None:
    async def read(path: str, lines: int) -> str:
        return f"{lines} lines of {path}" if lines > 100 else "few lines"

    tool = live(read, loop_key=["path"])
    async with AgentCacheSession(on_loop="short_circuit"):
        for number in range(5):
            await tool("a", number)
        with pytest.raises(AgentLoopDetectedError):
            await tool("a", 500)


async def test_a_loop_key_that_raises_counts_the_whole_call(caplog: pytest.LogCaptureFixture) -> None:
    tool = live(one_of, loop_key=lambda arguments: arguments["nothing"])
    async with AgentCacheSession():
        for number in range(20):
            await tool(number)
    assert len([record for record in caplog.records if "loop_key" in record.getMessage()]) == 1


async def test_a_loop_key_on_a_write() -> None:
    @AgentCacheInvalidator("r", loop_key=["item"], max_tool_repeats=2)
    async def put(item: int, note: str) -> str:
        return "done"

    async with AgentCacheSession():
        await put(1, "a")
        await put(1, "b")
        with pytest.raises(AgentLoopDetectedError):
            await put(1, "c")


# -- one policy ------------------------------------------------------------------------------------------------------------


async def test_a_policy_in_place_of_the_parameters() -> None:
    tool = live(one)
    async with AgentCacheSession(loop_policy=LoopPolicy(max_tool_repeats=2)):
        await tool()
        await tool()
        with pytest.raises(AgentLoopDetectedError):
            await tool()


@pytest.mark.parametrize("wrong", [{"loop_policy": 5}, {"loop_policy": LoopPolicy(), "max_tool_repeats": 3}])
def test_a_policy_or_the_parameters(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="loop_policy"):
        AgentCacheSession(**wrong)


# -- tools that are not cached -----------------------------------------------------------------------------------------------


def test_observe_tells_of_calls_that_went_past_the_cache() -> None:
    with AgentCacheSession() as session:
        for _ in range(5):
            assert session.observe("ls", {"path": "."}, "a b") is None
        with pytest.raises(AgentLoopDetectedError) as caught:
            session.observe("ls", {"path": "."}, "a b")
    assert caught.value.arguments == {"path": "'.'"}


def test_observe_reads_arguments_as_models_write_them() -> None:
    with AgentCacheSession(max_tool_repeats=2) as session:
        session.observe("ls", '{"path": ".", "all": true}', "a")
        session.observe("ls", {"all": True, "path": "."}, "a")
        with pytest.raises(AgentLoopDetectedError):
            session.observe("ls", '{ "all": true, "path": "." }', "a")


@pytest.mark.parametrize("arguments", [None, "not json", [1, 2], object()])
def test_observe_takes_any_arguments(arguments: object) -> None:
    with AgentCacheSession(max_tool_repeats=1) as session:
        session.observe("tool", arguments, "a")
        with pytest.raises(AgentLoopDetectedError):
            session.observe("tool", arguments, "a")


def test_an_observed_call_with_a_new_outcome_is_no_loop() -> None:
    with AgentCacheSession() as session:
        for number in range(40):
            assert session.observe("job", {}, f"{number // 5} done") is None


def test_observed_calls_of_one_batch_are_one() -> None:
    with AgentCacheSession() as session:
        for turn in range(5):
            for _ in range(10):
                session.observe("ls", {}, "a", batch=turn)
        with pytest.raises(AgentLoopDetectedError):
            session.observe("ls", {}, "a", batch=5)


def test_observe_staged_returns_the_hint() -> None:
    with AgentCacheSession(on_loop="staged") as session:
        for _ in range(5):
            session.observe("ls", {}, "a b")
        event = session.observe("ls", {}, "a b")
        assert isinstance(event, LoopEvent)
        assert "a b" in event.hint
        assert session.take_hints() == (event,)
        assert session.observe("ls", {}, "a b") is not None
        with pytest.raises(AgentLoopDetectedError):
            session.observe("ls", {}, "a b")


def test_observe_without_detection_says_nothing() -> None:
    with AgentCacheSession(loop_detection=False) as session:
        for _ in range(100):
            assert session.observe("ls", {}, "a") is None


def test_observe_needs_an_open_session() -> None:
    with pytest.raises(ConfigurationError, match="session"):
        AgentCacheSession().observe("ls", {}, "a")


def test_observe_and_decorated_calls_share_one_budget() -> None:
    @AgentCache("r")
    def look(number: int) -> int:
        return number

    with AgentCacheSession(max_execution_depth=10) as session:
        for number in range(5):
            look(number)
            session.observe("other", {"n": number}, number)
        with pytest.raises(AgentLoopDetectedError, match="budget"):
            look(99)


async def test_watched_tools() -> None:
    runs = []

    @watched
    async def look(item: int) -> str:
        """Look at it."""
        runs.append(item)
        return "nothing"

    @watched(max_tool_repeats=2, loop_key=["item"])
    def peek(item: int, why: str = "") -> str:
        return "nothing"

    assert (look.__name__, look.__doc__) == ("look", "Look at it.")
    for _ in range(20):
        await look(1)  # no session: nobody watches
    async with AgentCacheSession():
        for _ in range(5):
            await look(1)
        with pytest.raises(AgentLoopDetectedError):
            await look(1)
        peek(1, "a")
        peek(1, "b")
        with pytest.raises(AgentLoopDetectedError):
            peek(1, "c")
    assert len(runs) == 25


async def test_watched_tools_pass_their_errors_on() -> None:
    @watched
    async def broken(number: int) -> None:
        raise OSError("down")

    async with AgentCacheSession():
        for number in range(6):
            with pytest.raises(OSError, match="down"):
                await broken(number)
        with pytest.raises(AgentLoopDetectedError) as caught:
            await broken(7)
    assert caught.value.kind == "error"


async def test_a_watched_call_that_is_cancelled_is_over() -> None:
    begun = asyncio.Event()

    @watched
    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with AgentCacheSession(max_tool_repeats=1):
        task = asyncio.create_task(hang())
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(AgentLoopDetectedError):
            await hang()


async def test_a_watched_loop_is_never_short_circuited() -> None:
    @watched
    async def look() -> int:
        return 1

    async with AgentCacheSession(on_loop="short_circuit"):
        for _ in range(5):
            await look()
        with pytest.raises(AgentLoopDetectedError):
            await look()


async def test_a_watched_write_is_news_to_others() -> None:
    @watched(write=True)
    async def put(value: int) -> str:
        return "done"

    @watched
    async def check() -> str:
        return "fine"

    async with AgentCacheSession():
        for number in range(20):
            await put(number)
            await check()


async def test_what_on_loop_raises_leaves_a_watched_tool_usable() -> None:
    def refuse(event: LoopEvent) -> None:
        raise KeyError(event.tool)

    @watched
    async def look() -> int:
        return 1

    async with AgentCacheSession(on_loop=refuse) as session:
        for _ in range(5):
            await look()
        with pytest.raises(KeyError):
            await look()
        session.new_turn()
        assert await look() == 1


@pytest.mark.parametrize("wrong", [5, "tool", classmethod(lambda cls: 1)])
def test_only_functions_can_be_watched(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="watched"):
        watched(wrong)


def test_a_tool_whose_values_cannot_be_shown() -> None:
    class Sphinx:
        def __repr__(self) -> str:
            raise ValueError("guess")

    with AgentCacheSession() as session:
        for _ in range(20):
            session.observe("ask", {"who": 1}, Sphinx())
        logging.getLogger("agent_cache").debug("an outcome that cannot be told counts as new")
