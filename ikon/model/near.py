"""Which of many known names somebody may have meant by an unknown one, and which value of a list by a wrong one.

A key that only resembles a known one is somebody's own: `hw_gpu_cores` is no misspelt `hw_cpu_cores`. So names are compared word by word,
and only what fingers do counts: a letter too many, too few, two exchanged, a wrong one inside a longer word, another separator.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice

#: Letters and digits that a name has at least, to be taken for a misspelt one.
SHORTEST = 6
#: Known names that one unknown name is compared with at most, so that no set of definitions makes a look-up long.
MOST_COMPARED = 200
#: Allowed values that a wrong one is compared with at most.
MOST_VALUES = 1000
#: Characters of a name that is looked up; nobody misspells a longer one by a letter.
LONGEST = 100

_WORDS = re.compile(r"[_:.\-\s]+")
_DIGITS = re.compile(r"\d+")


class Names:
    """Known names, to be looked up by misspelt ones in a time that does not grow with their number."""

    def __init__(self, names: Iterable[str]) -> None:
        """Remember the names by pieces: of a name with at most two letters wrong, one third of three is whole."""
        self._pieces: dict[tuple[int, int, str], list[str]] = {}
        for name in dict.fromkeys(names):
            text = _squeezed(name)
            if SHORTEST <= len(text) <= LONGEST:
                for number, start, end in _thirds(len(text)):
                    self._pieces.setdefault((len(text), number, text[start:end]), []).append(name)

    def meant(self, name: str) -> str | None:
        """The known name of which `name` is a misspelling, None where there is none, or several are as near."""
        text = _squeezed(name)
        if not SHORTEST <= len(text) <= LONGEST:
            return None
        near = [(distance, known) for known in self._candidates(text) if (distance := _misspelt(known, name)) is not None]
        if not near:
            return None
        best = min(distance for distance, _ in near)
        closest = [known for distance, known in near if distance == best]
        return closest[0] if len(closest) == 1 else None

    def _candidates(self, text: str) -> Iterator[str]:
        seen: set[str] = set()
        for length in range(max(SHORTEST, len(text) - 2), len(text) + 3):
            for number, start, end in _thirds(length):
                for shift in range(-2, 3):
                    piece = text[max(start + shift, 0) : end + shift]
                    for known in self._pieces.get((length, number, piece), ()):
                        if known not in seen:
                            seen.add(known)
                            yield known
                            if len(seen) == MOST_COMPARED:
                                return


def nearest(value: str, allowed: Iterable[str]) -> str | None:
    """The one of the allowed values that `value` comes nearest to, if that is near at all."""
    if len(value) > LONGEST:
        return None
    found = [(_distance(value.lower(), one.lower(), 2), one) for one in islice(allowed, MOST_VALUES)]
    best = min((distance for distance, _ in found), default=99)
    closest = [one for distance, one in found if distance == best]
    return closest[0] if len(closest) == 1 and best <= min(2, len(value) // 3) else None


def _squeezed(name: str) -> str:
    return _WORDS.sub("", name.lower())


def _thirds(length: int) -> tuple[tuple[int, int, int], ...]:
    """Number, start and end of each third of a text of that length."""
    one, two = length // 3, 2 * length // 3
    return (0, 0, one), (1, one, two), (2, two, length)


def _misspelt(known: str, name: str) -> int | None:
    """How many slips lie between a known name and another; None where it is not a misspelling of it."""
    if _squeezed(known) == _squeezed(name):
        return 0  # only separators or case differ
    old, new = _WORDS.split(known.lower()), _WORDS.split(name.lower())
    if len(old) != len(new) or _DIGITS.sub("", known) == _DIGITS.sub("", name):
        return None
    slips = 0
    for right, wrong in zip(old, new, strict=True):
        slip = _slip(right, wrong)
        if slip is None:
            return None
        slips += slip
    return slips if slips <= 2 else None


def _slip(right: str, wrong: str) -> int | None:
    """How many letters are wrong in a word; None where it is another word."""
    if right == wrong:
        return 0
    length = len(right)
    distance = _distance(right, wrong, 2)
    if distance > (2 if length >= 6 else 1):
        return None
    exchanged_or_missing = sorted(right) == sorted(wrong) or length != len(wrong)
    if length <= 3:
        return distance if exchanged_or_missing and min(length, len(wrong)) > 1 else None
    return distance if right[0] == wrong[0] or (exchanged_or_missing and distance == 1) else None


def _distance(one: str, other: str, most: int) -> int:
    """Letters to insert, leave out, replace or exchange with their neighbour to make one text the other; above `most`: most + 1."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
        before, last = last, row
    return min(last[-1], most + 1)
