"""A Keystone, and its tokens: what clients send in place of identity headers when servers look tokens up."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from services import Service

#: Seconds for which a token is used again; it counts for an hour.
KEPT_S = 1800
PASSWORD = "secret"


class Cloud:
    """Its projects' ids are their names. In each, user `bench` is a member and `bench-admin` an administrator."""

    def __init__(self, state: Path, projects: Iterable[str]) -> None:
        self.keystone = Service("keystone", state, PROJECTS=" ".join(projects))
        self.url = self.keystone.url
        self._kept: dict[tuple[str, bool], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def token(self, project: str, *, admin: bool = False) -> str:
        """A token of a project, the same for half an hour."""
        with self._lock:
            token, until = self._kept.get((project, admin), ("", 0.0))
            if until < time.monotonic():
                token = self.new_token(project, admin=admin)
                self._kept[project, admin] = token, time.monotonic() + KEPT_S
        return token

    def new_token(self, project: str, *, admin: bool = False) -> str:
        """A token that nobody has seen."""
        user = {"name": "bench-admin" if admin else "bench", "domain": {"id": "default"}, "password": PASSWORD}
        auth = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"project": {"id": project}}}
        url, body = f"{self.url}/auth/tokens", json.dumps({"auth": auth}).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as answer:
            return answer.headers["X-Subject-Token"]
