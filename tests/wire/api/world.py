"""Personas and requests of the wire tests."""

import json
import socket
import uuid
from typing import Any

from tests.faults.world import ADMIN, Answer, Ikon

PATCH_TYPE = "application/openstack-images-v2.1-json-patch"
PATCH_OLD = "application/openstack-images-v2.0-json-patch"


def persona(project: str | None, roles: str, **more: str) -> dict[str, str]:
    """Identity headers as a Keystone middleware sets them; they replace the server's default admin."""
    return {**ADMIN, "X-User-Id": f"user-of-{project}", "X-Project-Id": project or "", "X-Roles": roles, **more}


def fresh_project() -> str:
    """A project that no other test uses."""
    return uuid.uuid4().hex


def ask(server: Ikon, method: str, path: str, body: Any = None, who: dict[str, str] | None = None, **headers: str) -> Answer:
    """One request; a body that is no bytes goes out as JSON. Underscores in header names stand for dashes."""
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    return server.call(method, path, raw, {**(who or {}), **{name.replace("_", "-"): value for name, value in headers.items()}})


def patch(
    server: Ikon, image: str, operations: Any, who: dict[str, str] | None = None, media_type: str = PATCH_TYPE, **headers: str
) -> Answer:
    """One PATCH."""
    return ask(server, "PATCH", f"/v2/images/{image}", operations, who, Content_Type=media_type, **headers)


def raw(server: Ikon, data: bytes, *, end: bool = False, wait_s: float = 10) -> bytes:
    """Send bytes as they are and read until the server closes, or nothing more comes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait_s) as sock:
        sock.sendall(data)
        if end:
            sock.shutdown(socket.SHUT_WR)
        got = b""
        try:
            while piece := sock.recv(65536):
                got += piece
                if b"\r\n\r\n" in got and not end:
                    sock.settimeout(0.3)
        except (TimeoutError, ConnectionResetError):
            pass
        return got
