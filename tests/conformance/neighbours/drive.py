"""What the drivers beside this file share. Each is run by the Python of the service whose code it drives, which has nothing of Ikon.

A driver prints one line for each call, `ok` or `FAIL`, and says at the end what of the service's code it has not called.
"""

import contextlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from keystoneauth1 import session
from keystoneauth1.identity import v3

WAIT_S = 60


class Drive:
    """The calls of one service, counted. given: what tests/conformance/drivers.py says in its JSON on stdin."""

    def __init__(self, service: str) -> None:
        self.service, self.given = service, json.load(sys.stdin)
        self._called: set[str] = set()
        self._passed = self._failed = 0

    def person(self, name: str) -> dict[str, Any]:
        """Token, ids and catalogue (in the form in which Keystone's middleware hands it on) of one of the users."""
        auth = self.auth(name)
        access = auth.get_access(session.Session())
        catalog = [
            {"type": service["type"], "name": service["name"], "endpoints": list(_regions(service["endpoints"]).values())}
            for service in access.service_catalog.catalog
        ]
        return {"token": access.auth_token, "user": access.user_id, "project": access.project_id, "catalog": catalog, "access": access}

    def auth(self, name: str) -> v3.Password:
        """How to log in as one of the users."""
        who = {"username": name, "password": self.given["password"], "user_domain_id": "default"}
        return v3.Password(self.given["auth_url"], **who, project_name=self.given["users"][name], project_domain_id="default")

    @contextlib.contextmanager
    def call(self, of: Callable[..., Any], what: str) -> Iterator[None]:
        """One call of a function, or a few that belong together. It fails where the block raises anything."""
        self._called.add(of.__qualname__)
        said = f"{self.service} {of.__qualname__}: {what}"
        try:
            yield
        except Exception as error:
            self._failed += 1
            print(f"FAIL {said}: {type(error).__name__}: {error}")
        else:
            self._passed += 1
            print(f"ok   {said}")

    def end(self, must: list[str], apart: dict[str, str]) -> None:
        """Say the counts, and end with 1 where a call failed or was left out. must: what the code can call. apart: of these, what need not be, and why."""
        for name in sorted(apart):
            print(f"none {self.service} {name}: {apart[name]}")
        for name in sorted({*must} - self._called - {*apart}):
            self._failed += 1
            print(f"FAIL {self.service} {name}: is not called here")
        print(f"{self.service}: {self._passed} passed, {self._failed} failed")
        sys.exit(self._failed > 0)


def _regions(endpoints: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        found.setdefault(endpoint["region"], {"region": endpoint["region"]})[f"{endpoint['interface']}URL"] = endpoint["url"]
    return found


def public(*things: Any) -> list[str]:
    """Names of the functions and methods of these modules and classes that others may call."""
    names = []
    for thing in things:
        for name, value in vars(thing).items():
            value = getattr(value, "__func__", value)  # of a static or class method
            here = inspect.isclass(thing) or getattr(value, "__module__", None) == thing.__name__
            if not name.startswith("_") and inspect.isfunction(value) and here:
                names.append(value.__qualname__)
    return names


@contextlib.contextmanager
def refused(problem: type[Exception]) -> Iterator[None]:
    """The block must end with this."""
    try:
        yield
    except problem:
        return
    raise AssertionError(f"it should have been refused with {problem.__name__}")


def until(true: Callable[[], Any]) -> None:
    """Wait until it is."""
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.1)
