"""Imports only go down: a room knows the floors below it, never its own or those above. And a start imports only what it uses."""

import ast
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[2] / "ikon"
FLOORS = [
    "problems config context log threads metrics",
    "model",
    "db stores formats broker",
    "policy protection quota queue events transfer passwords seal keystone signatures",
    "kit policyfile",
    "service",
    "steps",
    "api worker periodic",
    "supervisor",
    "app",
    "cli",
]
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms.split()}
#: The ground may stand on itself where one of its stones lies on another.
GROUND = {("config", "problems"), ("log", "config")}

#: Not to be paid for by a server that does not use them.
HEAVY = (
    "alembic",
    "rich",
    "kombu",
    "oslo",
    "obstore",
    "keystoneauth1",
    "boto3",
    "psycopg",
    "pymysql",
    "argon2",
    "backports",
    "cryptography",
    "re2",
    "cursive",
    "castellan",
)


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
    assert found - carriers <= {
        "api/door.py",
        "periodic/base.py",
        "transfer/intake.py",
        "supervisor.py",
        "worker/loop.py",
        "broker.py",
        "events.py",
        "policyfile.py",
        "cli/doctor.py",
    }, found


def test_no_import_is_relative() -> None:
    relative = [
        f"{path.relative_to(HOUSE)}:{node.lineno}"
        for path in HOUSE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative, "\n".join(relative)


def test_files_of_one_room_import_each_other_without_a_loop() -> None:
    uses: dict[str, set[str]] = {}
    for path in HOUSE.rglob("*.py"):
        name = ".".join(("ikon", *path.relative_to(HOUSE).with_suffix("").parts)).removesuffix(".__init__")
        uses[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ikon"):
                uses[name] |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    uses = {name: {other for other in found if other in uses and other != name} for name, found in uses.items()}
    while free := {name for name, found in uses.items() if not found & uses.keys()}:
        uses = {name: found for name, found in uses.items() if name not in free}
    assert not uses, f"a loop among {sorted(uses)}"


def test_a_start_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    script = """
import sys
from ikon import app
from ikon.config import load

settings = load(None, {"data": sys.argv[1], "listen": "127.0.0.1:0"}, {})

async def serve(*_):
    async with app.open_kit(settings) as kit:
        app._uvicorn(settings, app.Door(kit)).load()

app.prepare(settings)  # makes the schema, for which Alembic is needed once
first = [name for name in sys.modules]
"""
    prepared = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert prepared.returncode == 0, prepared.stderr

    again = script.replace("first = [name for name in sys.modules]", "import asyncio; asyncio.run(serve()); print(*sys.modules)")
    started = subprocess.run([sys.executable, "-c", again, tmp_path], capture_output=True, text=True, check=False)

    assert started.returncode == 0, started.stderr
    modules = {name.split(".")[0] for name in started.stdout.split()}
    assert "sqlalchemy" in modules
    assert sorted(name for name in modules if name.startswith(HEAVY)) == []
