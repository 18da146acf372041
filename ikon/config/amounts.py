"""Amounts that several tables of settings are made of."""

from typing import Annotated

from msgspec import Meta

MIB = 1 << 20
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
#: Ten years.
LONGEST_S = 315_360_000
