"""What the tests of faults share: figures that are shown however pytest is called."""

from collections.abc import Callable

import pytest

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Show a line to whoever runs the tests."""

    def show(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")

    return show
