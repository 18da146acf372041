"""How commands speak to the running server: through the socket in its data directory, which only its own user can open."""

import http.client
import os
import socket
from typing import Any

import click
import msgspec

from ikon.config import Settings


class _Local(http.client.HTTPConnection):
    def __init__(self, settings: Settings) -> None:
        super().__init__("localhost")
        self._run = settings.run

    def connect(self) -> None:
        """Connect by a short name: a socket's path has 107 bytes at most."""
        directory = os.open(self._run, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(f"/proc/self/fd/{directory}/ikon.sock")
        finally:
            os.close(directory)


def harmless(text: str) -> str:
    """Text that users chose, with nothing in it that a terminal obeys."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def call(settings: Settings, method: str, path: str, body: Any = None) -> Any:
    """One request as the operator. Raises ClickException with the server's own words when it fails."""
    connection = _Local(settings)
    try:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        connection.request(method, path, msgspec.json.encode(body) if body is not None else None, headers)
        response = connection.getresponse()
        answer = response.read()
    except OSError:
        raise click.ClickException(f"No server is running on {settings.data}. Start it with: ikon serve --data {settings.data}") from None
    if response.status >= 400:
        raise click.ClickException(msgspec.json.decode(answer)["message"])
    return msgspec.json.decode(answer) if answer else None
