"""Turns on this node: so many, and no more, whoever takes them."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from ikon.transfer.turns import Turns


def test_there_are_so_many_turns_and_each_can_be_taken_again(tmp_path: Path) -> None:
    turns, others = Turns(tmp_path, "work", 2), Turns(tmp_path, "other", 1)

    with turns.take() as first, Turns(tmp_path, "work", 2).take() as second, turns.take() as third, others.take() as other:
        assert (first, second, third, other) == (True, True, False, True)
    with turns.take() as again:
        assert again


def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    turns = Turns(tmp_path, "work", 1)
    program = "import pathlib, sys; from ikon.transfer.turns import Turns\nwith Turns(pathlib.Path(sys.argv[1]), 'work', 1).take() as t: print(t, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as stack:
        stack.callback(other.wait)
        stack.callback(os.kill, other.pid, signal.SIGKILL)
        assert other.stdout is not None
        took = other.stdout.readline()
        with turns.take() as meanwhile:
            pass
    with turns.take() as afterwards:
        pass

    assert (took, meanwhile, afterwards) == ("True\n", False, True)
