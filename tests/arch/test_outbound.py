"""One room opens outbound connections. Whatever else would, goes past the gate of ikon/transfer/egress.py."""

import ast
from pathlib import Path

HOUSE = Path(__file__).parents[2] / "ikon"

#: Modules that can open connections, and what of them may be used anywhere because it cannot.
CONNECTING = ("http.client", "urllib.request", "urllib3", "requests", "httpx", "httpcore", "aiohttp", "h11", "ftplib", "smtplib", "xmlrpc", "telnetlib", "websockets", "anyio", "socketserver")  # fmt: skip
#: Calls that open one, by their last name.
CALLS = ("create_connection", "open_connection", "create_datagram_endpoint", "sock_connect", "connect_ex", "connect_tcp", "urlopen")
#: Where it is right: the client of web sources; the question which address is ours, which sends nothing; commands that speak to the
#: server on this machine. Drivers of databases connect by themselves.
ALLOWED = {
    "transfer/exchange.py": {"create_connection"},
    "transfer/egress.py": {"connect"},
    "cli/remote.py": {"http.client", "connect"},
}


def used(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    sockets = any(isinstance(node, ast.Import) and any(alias.name == "socket" for alias in node.names) for node in ast.walk(tree))
    calls = {*CALLS, "connect"} if sockets else set(CALLS)  # a database engine has a `connect` too
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            last = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            found |= {last} & calls
        found |= {module for module in CONNECTING for name in names if name == module or name.startswith(f"{module}.")}
        found |= {"from socket import"} if any(name.startswith("socket.") for name in names) else set()
    return found


def test_nothing_but_the_fetcher_opens_outbound_connections() -> None:
    wrong = {}
    for path in sorted(HOUSE.rglob("*.py")):
        name = str(path.relative_to(HOUSE))
        extra = used(path) - ALLOWED.get(name, set())
        if extra:
            wrong[name] = sorted(extra)
    assert not wrong


def test_the_search_finds_every_way_out(tmp_path: Path) -> None:
    ways = [
        "import http.client", "from http import client", "from urllib import request", "import urllib.request", "from urllib.request import urlopen as u",
        "import httpx", "import requests.sessions", "socket.create_connection(a)", "import socket; s.connect(a)", "from socket import create_connection", "await asyncio.open_connection('a', 1)",
        "loop.create_connection(f, 'a')", "from aiohttp import ClientSession",
    ]  # fmt: skip
    for way in ways:
        (tmp_path / "way.py").write_text(way.replace("await ", ""))
        assert used(tmp_path / "way.py"), way
    for allowed in ALLOWED:
        assert used(HOUSE / allowed) == ALLOWED[allowed], allowed
