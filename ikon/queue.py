"""Durable jobs as verbs see them: enqueued in the transaction that they serve, workers rung after its commit. Knows no job kind."""

import asyncio
import os
import time
import uuid

from sqlalchemy import Connection

from ikon.db import jobs
from ikon.model.job import New


def new_id() -> str:
    """An id that begins with the time, as UUID version 7, so that jobs lie in the order in which they came."""
    head = (time.time_ns() // 1_000_000) << 80
    bits = head | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=bits & ~(0x3 << 62) | 0x2 << 62))


class Queue:
    """Wakes whoever claims jobs. A ring that is lost costs time, never a job: workers look by themselves now and then."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def enqueue(self, conn: Connection, new: New) -> None:
        """Add a job inside a transaction; call `ring` when that has committed."""
        jobs.enqueue(conn, new)

    def ring(self) -> None:
        """There is work."""
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Return when somebody rings, or after that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return
        self._rung.clear()
