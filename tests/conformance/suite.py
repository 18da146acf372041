"""Runs tests of tempest and of glance-tempest-plugin, as they are published, and judges what they found.

A test passes, or fails, or is skipped for a reason that stands in `SKIPS`, or waits: it is named in waiting.txt, because it asks for something that
Ikon does not have yet. One that waits and passes is as wrong as one that fails, so that the list holds no more than it must.
"""

import configparser
import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.lab import HERE, PASSWORD, REMOTE, VENVS, Lab

IMAGE, PLUG_IN = r"^tempest\.api\.image\.", r"^glance_tempest_plugin\."
#: How many tests these are besides those that are skipped.
IMAGE_TESTS, PLUG_IN_TESTS = 86, 186
CONVERSIONS, LISTS = r"\.test_accept_reject_formats_import", r"\.ListUserImagesTest\."
#: Sample images for tempest's tests of formats: file, format.
SOUND = {
    "small/disk.raw": "raw",
    "small/gpt.raw": "gpt",
    "small/v2.qcow2": "qcow2",
    "small/compressed.qcow2": "qcow2",
    "small/sparse.vmdk": "vmdk",
    "small/stream.vmdk": "vmdk",
    "small/dynamic.vhd": "vhd",
    "small/dynamic.vhdx": "vhdx",
    "small/disk.vdi": "vdi",
    "small/disk.iso": "iso",
}
#: The same, of images that reach outside themselves.
UNSOUND = {"small/backing.qcow2": "qcow2", "small/datafile.qcow2": "qcow2", "hostile/parent.vmdk": "vmdk"}
#: What tempest may say of a test that it does not run, and why that is right here. Any other reason fails the run.
SKIPS = {
    "Unable to test compute image formats": "it boots servers",
    "Import image_conversion not enabled": "it is run where imports are converted",
    "Image format enforcement prevents testing with bogus image data": "it is run where data is taken for what it is said to be",
    "Glance does not currently reject unusable images on upload": "Ikon does: tests/wire/test_matrix.py",
    "do_secure_hash is enabled": "it is for servers that compute no digests",
    "Skipped until bug: https://launchpad.net/bugs/2030527 is resolved": "by tempest itself",
}


@dataclass
class Report:
    """What one run found. Tests are named as tempest names them; a class that could not be set up counts as one."""

    name: str
    seconds: float
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)

    @property
    def judged(self) -> int:
        """How many tests were not skipped."""
        return len(self.passed) + len(self.failed) + len(self.waiting)

    @property
    def faults(self) -> list[str]:
        """What is wrong, one line each; none: the run is as it should be."""
        return [
            *(f"failed: {test}: {why.splitlines()[-1] if why else 'no word'}" for test, why in self.failed.items()),
            *(f"passed, and so it does not wait any more: {test}" for test in self.passed if test in WAITING),
            *(f"skipped for a reason that is not known: {why}" for why in self.skipped if not accepted(why)),
            *(f"said to wait, but not among the tests: {test}" for test in self.unseen),
            *([] if self.passed else ["nothing has passed"]),
        ]

    def __str__(self) -> str:
        lines = [f"WAIT {sum(each == why for each in self.waiting.values())}: {why}" for why in sorted(set(self.waiting.values()))]
        lines += [f"SKIP {len(tests)}: {accepted(why) or why}" for why, tests in sorted(self.skipped.items())]
        lines += [f"FAIL {test}\n{why}" for test, why in self.failed.items()]
        counts = f"{len(self.passed)} passed, {len(self.failed)} failed, {sum(map(len, self.skipped.values()))} skipped, {len(self.waiting)} wait"
        return "\n".join([*lines, f"{self.name}: {counts}, {self.seconds:.0f} s"])


def accepted(why: str) -> str | None:
    """Why it is right that a test was skipped; None: it is not."""
    return next((f"{why} ({ours})" for theirs, ours in SKIPS.items() if re.search(theirs, why)), None)


def waiting() -> dict[str, str]:
    """The tests of waiting.txt, and what each waits for."""
    found, why = {}, ""
    for line in (HERE / "waiting.txt").read_text().splitlines():
        if line.startswith("#"):
            why = line[1:].strip()
        elif line:
            found[line] = why
    return found


WAITING = waiting()


def run(lab: Lab, name: str, tests: str, *, region: str = "RegionOne", **features: bool) -> Report:
    """Run the tests whose names match. features: further `[image-feature-enabled]` of tempest's."""
    where = lab.directory / f"tempest-{name}"
    where.mkdir()
    settings = where / "tempest.conf"
    with settings.open("w") as file:
        configuration(lab, where, region, features).write(file)
    command: list[Any] = [VENVS / "tempest/bin/tempest", "run", "--config-file", settings, "--subunit", "--concurrency", "2"]
    command += ["--regex", tests, "--exclude-regex", "test_images_dependency"]  # which boots servers
    began = time.monotonic()
    env = {key: value for key, value in os.environ.items() if not key.startswith("OS_")} | {"no_proxy": "*"}
    done = subprocess.run(command, cwd=where, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=3600)
    (where / "subunit").write_bytes(done.stdout)
    reader = [VENVS / "tempest/bin/python", HERE / "stream.py"]
    read = subprocess.run(reader, input=done.stdout, capture_output=True, check=False)
    assert read.returncode == 0, (done.stderr + read.stderr).decode()
    found = json.loads(read.stdout)
    unseen = [test for test in WAITING if re.search(tests, test) and test not in found]
    return sort(Report(name, time.monotonic() - began, unseen=unseen), found)


def sort(report: Report, tests: dict[str, tuple[str, str]]) -> Report:
    """Put each test where it belongs."""
    for test, (status, why) in sorted(tests.items()):
        if status == "success":
            report.passed.append(test)
        elif status == "skip":
            report.skipped.setdefault(why, []).append(test)
        elif test in WAITING:
            report.waiting[test] = WAITING[test]
        elif status != "exists":
            report.failed[test] = why
    return report


def configuration(lab: Lab, where: Path, region: str, features: dict[str, bool]) -> configparser.ConfigParser:
    """Tempest's settings."""
    manifest = where / "manifest.yaml"  # JSON is YAML
    images = [
        {"name": Path(path).name, "filename": str(lab.images / path), "format": form, "usable": path in SOUND}
        for path, form in (SOUND | UNSOUND).items()
    ]
    manifest.write_text(json.dumps({"images": images}))
    said: dict[str, dict[str, Any]] = {
        "DEFAULT": {"log_dir": where, "log_file": "tempest.log"},
        "oslo_concurrency": {"lock_path": where / "locks"},
        "auth": {
            "use_dynamic_credentials": True,
            "create_isolated_networks": False,
            "admin_username": "admin",
            "admin_password": PASSWORD,
            "admin_project_name": "admin",
            "admin_user_domain_name": "Default",
            "admin_domain_name": "Default",
            "tempest_roles": "",
        },
        "identity": {"uri_v3": lab.keystone.url, "auth_version": "v3", "v3_endpoint_type": "publicURL", "default_domain_id": "default"},
        "identity-feature-enabled": {"api_v2": False, "api_v3": True},
        "enforce_scope": {"glance": True, "keystone": True},
        # the tests of formats derive from a class of the compute tests; they talk to the image service only
        "service_available": {"glance": True, "nova": True, "cinder": False, "neutron": False, "swift": False, "horizon": False},
        "compute-feature-enabled": {"console_output": False},
        "image": {
            "region": region,
            "http_image": f"{lab.source}/disk.raw",
            "http_qcow2_image": f"{lab.source}/v3.qcow2",
            "image_caching_enabled": True,
            "alternate_image_endpoint": REMOTE,
            "build_timeout": 60,
            "build_interval": 1,
            "disk_formats": ",".join(["raw", "qcow2", "ami", "ari", "aki", "vhd", "vmdk", "vdi", "iso", "vhdx", "gpt"]),
            "images_manifest_file": manifest,
        },
        "image-feature-enabled": {
            "import_image": True,
            "os_glance_reserved": True,
            "manage_locations": True,
            "http_store_enabled": True,
            "store_weight_enabled": True,
        }
        | features,
        "glance_api": {"system_scope_supported": False},
    }
    made = configparser.ConfigParser(interpolation=None)
    made.read_dict({table: {key: str(value) for key, value in settings.items()} for table, settings in said.items()})
    return made
