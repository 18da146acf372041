"""Pools: calls that hang take their threads and nothing else."""

import asyncio
import os
import threading
import time
import weakref

import pytest

from ikon.threads import GIVES_WAY, NICE, Late, Pool

PATIENCE_S = 0.1


async def test_a_call_that_hangs_is_given_up_and_its_thread_is_of_use_again_when_it_comes_back() -> None:
    pool, gate = Pool("test", 1, PATIENCE_S), threading.Event()
    hung, queued = asyncio.ensure_future(pool.run(gate.wait)), asyncio.ensure_future(pool.run(int))
    began = time.monotonic()
    with pytest.raises(Late):
        await hung
    assert PATIENCE_S <= time.monotonic() - began < 10 * PATIENCE_S
    with pytest.raises(Late):
        await queued
    with pytest.raises(Late):  # at once, since nobody is there to take it
        await asyncio.wait_for(pool.run(int), PATIENCE_S / 10)
    gate.set()
    await asyncio.sleep(PATIENCE_S)
    assert await pool.run(int) == 0
    pool.close()


async def test_calls_wait_behind_one_that_hangs_as_long_as_another_thread_works() -> None:
    pool, gate = Pool("test", 2, PATIENCE_S), threading.Event()
    hung = asyncio.ensure_future(pool.run(gate.wait))
    slow = [asyncio.ensure_future(pool.run(time.sleep, PATIENCE_S / 2)) for _ in range(6)]
    await asyncio.gather(*slow)  # in all three times its patience
    with pytest.raises(Late):
        await hung
    gate.set()
    pool.close()


async def test_a_call_whose_caller_left_before_it_began_is_not_made() -> None:
    pool, gate, made = Pool("test", 1), threading.Event(), []
    first, second = asyncio.ensure_future(pool.run(gate.wait)), asyncio.ensure_future(pool.run(made.append, 1))
    await asyncio.sleep(0)
    second.cancel()
    gate.set()
    await first
    await pool.run(int)
    assert made == []
    pool.close()


async def test_what_must_be_done_waits_for_a_thread_that_hangs() -> None:
    pool, gate, done = Pool("test", 1, PATIENCE_S), threading.Event(), threading.Event()
    with pytest.raises(Late):
        await asyncio.gather(pool.run(gate.wait), asyncio.to_thread(pool.leave, done.set))
    assert not done.is_set()
    gate.set()
    assert await asyncio.to_thread(done.wait, 5)
    pool.close()


class Thing:
    """Something that is closed when nobody holds it any more."""


async def test_a_thread_holds_nothing_of_a_call_that_is_answered() -> None:
    pool = Pool("test", 2)
    for _ in range(300):
        thing, made = Thing(), await pool.run(Thing)
        refs = [weakref.ref(thing), weakref.ref(made)]
        await pool.run(id, thing)
        del thing, made
        assert [ref() for ref in refs] == [None, None]


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_what_is_done_for_jobs_gives_way_and_takes_no_thread_of_what_somebody_waits_for() -> None:
    pool, gate = Pool("test", 4), threading.Event()

    async def job() -> int:
        GIVES_WAY.set(True)
        found, *_ = await asyncio.gather(pool.run(niceness), *(pool.run(gate.wait) for _ in range(4)))
        return found

    working = asyncio.create_task(job())
    await asyncio.sleep(0.05)
    assert await asyncio.wait_for(pool.run(niceness), 5) == niceness()
    gate.set()
    assert await working == niceness() + NICE
    pool.close()


async def test_what_is_left_behind_by_a_job_alone_is_called_too() -> None:
    pool, called = Pool("test", 1), threading.Event()

    async def job() -> None:
        GIVES_WAY.set(True)
        await pool.run(int)

    await asyncio.create_task(job())
    pool.leave(called.set)
    assert await asyncio.to_thread(called.wait, 5)
    pool.close()
