"""What a process that runs by itself found and did."""

from typing import NamedTuple

from msgspec import Struct


class Found(NamedTuple):
    """How many things were looked at, and how many of them mended."""

    looked: int
    mended: int


#: What a run found, by kind of thing.
Parts = dict[str, Found]


class Report(Struct, frozen=True):
    """The last run of a process. name: with its node, "reaper@one", where each node has one. at: its end, in ms by the database's clock.

    failed: why it did not do all of it, None when it did.
    """

    name: str
    at: int
    took_ms: int
    parts: Parts
    failed: str | None

    @property
    def total(self) -> Found:
        """All kinds together."""
        return total(self.parts)


def total(parts: Parts) -> Found:
    """All kinds together."""
    return Found(sum(part.looked for part in parts.values()), sum(part.mended for part in parts.values()))


def told(report: Report) -> str:
    """A report's figures for a person: "looked at 5, mended 3 (bytes 2, trash 1)"."""
    mended = ", ".join(f"{kind} {part.mended}" for kind, part in report.parts.items() if part.mended)
    said = f"looked at {report.total.looked}, mended {report.total.mended}{f' ({mended})' if mended else ''} in {report.took_ms} ms"
    return f"{said}; failed: {report.failed}" if report.failed else said
