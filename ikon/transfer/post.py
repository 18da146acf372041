"""Sends to a URL of the operator's own, which may be anywhere but where nobody's is. Knows no event.

The rules for what users name do not hold here: an operator's receiver mostly stands inside, and opening its network in `[egress]` would
open it to every user's import. So this one URL, which only the settings name, has a gate of its own. docs/design/outbound.md.
"""

import asyncio
from collections.abc import Mapping

from ikon import __version__
from ikon.config import PRIVATE, Egress
from ikon.problems import SourceNotAllowed, SourceProblem, StartError, Unavailable
from ikon.transfer.egress import Gate, take_apart
from ikon.transfer.fetch import Fetcher

#: Seconds for all of one request, from the look-up of the name to the head of the answer.
SEND_S = 30.0
HEADERS = {"User-Agent": f"Ikon/{__version__}", "Content-Type": "application/json", "Connection": "close"}


class Poster:
    """Sends to one URL. It follows no redirect, and reads an answer no further than its head."""

    def __init__(self, fetcher: Fetcher, setting: str, url: str, limit_s: float = SEND_S) -> None:
        """setting: the key that the URL comes from. Raises StartError, which does not repeat the URL: its path may be a secret."""
        self._fetcher, self._limit_s = fetcher, limit_s
        try:
            target = take_apart(url)
            opened = Egress(allowed_networks=list(PRIVATE), allowed_ports=[target.port])
            self._gate = Gate(opened, fetcher.resolve, own=lambda address: False)
            self._target = self._gate.target(url)
        except (ValueError, SourceNotAllowed) as error:
            why = error.because if isinstance(error, SourceNotAllowed) else str(error)
            raise StartError(f"config: {setting}: {why}. Allowed: http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH") from None

    async def post(self, headers: Mapping[str, str], body: bytes) -> int:
        """Send JSON; the status of the answer, whatever it is. Raises Unavailable when there is none in time."""
        try:
            async with asyncio.timeout(self._limit_s):
                answer = await self._fetcher.reach(self._gate, self._target, {**HEADERS, **headers}, body)
                try:
                    await answer.read_head()
                finally:
                    answer.close()
        except TimeoutError:
            raise self._failed(f"no answer within {self._limit_s:g} s") from None
        except SourceProblem as problem:
            raise self._failed(problem.because) from None
        except OSError as error:
            raise self._failed(str(error) or type(error).__name__) from None
        return answer.status

    def _failed(self, why: str) -> Unavailable:
        return Unavailable(f"{self._target.origin}: {why}")
