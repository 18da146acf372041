"""What is sealed opens with the same secret at the same place, and nowhere else."""

import pytest

from ikon.problems import SealBroken
from ikon.seal import seal, unseal

SECRET = "0123456789abcdef" * 2


def test_what_is_sealed_opens_for_its_own_job_alone() -> None:
    sealed = seal(SECRET, "gAAAA-token", "job 1")

    assert unseal(SECRET, sealed, "job 1") == "gAAAA-token"
    for secret, text, place in (
        (SECRET, sealed, "job 2"),
        (SECRET + "x", sealed, "job 1"),
        ("", sealed, "job 1"),
        (SECRET, sealed[:-4] + "AAAA", "job 1"),
        (SECRET, "", "job 1"),
        (SECRET, "no base64!", "job 1"),
    ):
        with pytest.raises(SealBroken):
            unseal(secret, text, place)


def test_a_sealed_text_neither_shows_nor_repeats_itself() -> None:
    first, second = seal(SECRET, "gAAAA-token", "job"), seal(SECRET, "gAAAA-token", "job")

    assert first != second
    assert "token" not in first + second
