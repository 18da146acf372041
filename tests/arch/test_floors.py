"""Imports only go down: a room of the house knows the floors below it, never its own or those above."""

import ast
from pathlib import Path

HOUSE = Path(__file__).parents[2] / "ikon"
FLOORS = [
    "problems config context log threads metrics",
    "model",
    "db stores",
    "policy quota transfer",
    "kit",
    "service",
    "api periodic",
    "supervisor",
    "app",
    "cli",
]
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms.split()}
#: The ground may stand on itself where one of its stones lies on another.
GROUND = {("config", "problems"), ("log", "config")}


def rooms_imported(tree: ast.AST) -> list[str]:
    rooms = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ikon":
            rooms += [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            rooms += [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ikon.")]
    return [room for room in rooms if not room.startswith("__")]


def test_imports_only_go_down() -> None:
    wrong = []
    for path in sorted(HOUSE.rglob("*.py")):
        here = path.relative_to(HOUSE).parts[0].removesuffix(".py")
        for room in rooms_imported(ast.parse(path.read_text())):
            if room != here and (here, room) not in GROUND and FLOOR.get(room, 99) >= FLOOR.get(here, 99):
                wrong.append(f"{path.relative_to(HOUSE)}: {room}")
    assert not wrong, "\n".join(wrong)


def test_few_places_catch_everything() -> None:
    found = {
        str(path.relative_to(HOUSE))
        for path in HOUSE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
    }
    carriers = {"threads.py", "db/pool.py", "db/engine.py"}  # carry what a call on a thread raised to its caller
    assert found - carriers <= {"api/door.py", "periodic/base.py", "transfer/intake.py", "supervisor.py"}, found
