"""Runs the drivers of neighbours/: what Nova, Cinder and Horizon ship for talking to the image service, against Ikon with tokens of Keystone."""

import json
import os
import subprocess

from tests.conformance.lab import HERE, PASSWORD, VENVS, Lab

USERS = {"alice": "alpha", "bob": "beta", "admin": "admin"}


def drive(lab: Lab, service: str) -> tuple[bool, str]:
    """Drive the code of one of them. Returns whether all is as it should be, and what was said, a line for each call."""
    small = lab.images / "small"
    given = {
        "auth_url": lab.keystone.url,
        "endpoint": f"http://127.0.0.1:{lab.servers[0].port}",
        "password": PASSWORD,
        "users": USERS,
        "location": f"{lab.source}/disk.raw",
        "file": str(small / "disk.raw"),
        "qcow2": str(small / "v3.qcow2"),
        "gzip": str(small / "disk.raw.gz"),
        "origin": lab.origin,
    }
    command = [VENVS / service / "bin/python", HERE / f"neighbours/drive_{service}.py"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("OS_")} | {"no_proxy": "*", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, input=json.dumps(given), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=1200
    )
    return done.returncode == 0, done.stdout


def accounts(lab: Lab) -> None:
    """The users as which Nova and Cinder act for themselves."""
    for name in ("nova", "cinder"):
        lab.keystone.add_user(name, "service", "admin", "service")
