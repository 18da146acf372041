"""Drives the unmodified `openstack` and `glance` commands and openstacksdk through one image's whole life; see scripts/journey.

Runs in .venv-clients and uses nothing of Ikon's: what passes here passes for a user's own clients. How each client is pointed at a service
without Keystone is in `openstack`, `glance`, `sdk` and `party` below, and is all that a user needs to know.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
CLIENTS = Path(sys.executable).parent


class StepError(Exception):
    """A step did not do what it should; the text says what was seen."""


class Journey:
    """One image file, one endpoint, and a line on the terminal for each step."""

    def __init__(self, endpoint: str, source: Path, work: Path) -> None:
        self.endpoint, self.source, self.work = endpoint, source, work
        data = source.read_bytes()
        self.size_bytes, self.md5, self.sha512 = len(data), hashlib.md5(data).hexdigest(), hashlib.sha512(data).hexdigest()
        self.file = ["--disk-format", "qcow2", "--container-format", "bare", "--file", str(source)]
        # a home of its own: the glance client keeps schemas in ~/.glanceclient, and a clouds.yaml would lead elsewhere
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("OS_")} | {"HOME": str(work), "no_proxy": "*"}
        self.failed = 0

    def name(self, client: str) -> str:
        """One that no image has, whatever an earlier journey left behind."""
        return f"journey {client} {secrets.token_hex(4)}"

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print how the step in this block went. A failure ends the chapter, not the journey."""
        began = time.monotonic()
        try:
            yield
        except Exception as problem:
            print(f"FAILED  {title}", flush=True)
            raise StepError(f"{type(problem).__name__}: {problem}" if not isinstance(problem, StepError) else str(problem)) from problem
        print(f"ok      {title}  ({time.monotonic() - began:.1f} s)", flush=True)

    def chapter(self, title: str, story: Callable[[], None]) -> None:
        print(f"\n{title}")
        try:
            story()
        except StepError as problem:
            self.failed += 1
            print("\n".join(f"        {line}" for line in str(problem).splitlines()), flush=True)

    def run(self, *command: str, terminal: bool = False) -> str:
        """What a command printed. terminal: it is started at one, where nobody types; otherwise with nothing to read."""
        with self.standard_input(terminal=terminal) as stdin:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False, stdin=stdin)
        if done.returncode:
            raise StepError(f"exit status {done.returncode} of: {shlex.join(command)}\n{(done.stdout + done.stderr).strip()[-2000:]}")
        return done.stdout

    @contextlib.contextmanager
    def standard_input(self, *, terminal: bool) -> Iterator[int]:
        """What a command reads: clients that make or import images read data from whatever is no terminal."""
        ends = os.openpty() if terminal else (os.open(os.devnull, os.O_RDONLY),)
        try:
            yield ends[-1]
        finally:
            for end in ends:
                os.close(end)

    def refused(self, *command: str, terminal: bool = False) -> str:
        """What a command said that had to fail."""
        with self.standard_input(terminal=terminal) as stdin:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False, stdin=stdin)
        expect(done.returncode != 0, f"this should have failed: {shlex.join(command)}\n{done.stdout}")
        expect("Traceback" not in done.stderr, f"a crash instead of an answer: {done.stderr[-2000:]}")
        return done.stdout + done.stderr

    def check_record(self, image: dict[str, Any]) -> None:
        """An active image's record tells the size and both digests of the file that was sent."""
        same("status", image["status"], "active")
        same("size", int(image["size"]), self.size_bytes)
        same("checksum", image["checksum"], self.md5)
        same("os_hash_algo", image["os_hash_algo"], "sha512")
        same("os_hash_value", image["os_hash_value"], self.sha512)

    def check_saved(self, saved: Path) -> None:
        data = saved.read_bytes()
        same("bytes saved", len(data), self.size_bytes)
        same("md5 of the saved file", hashlib.md5(data).hexdigest(), self.md5)
        same("sha512 of the saved file", hashlib.sha512(data).hexdigest(), self.sha512)


def expect(truth: bool, otherwise: str) -> None:
    if not truth:
        raise StepError(otherwise)


def same(what: str, seen: object, wanted: object) -> None:
    expect(seen == wanted, f"{what} is {seen!r}, not {wanted!r}")


def openstack(journey: Journey) -> None:
    """`openstack --os-auth-type none --os-endpoint URL image ...`, or OS_AUTH_TYPE=none OS_ENDPOINT=URL in the environment."""
    client = [str(CLIENTS / "openstack"), "--os-auth-type", "none", "--os-endpoint", journey.endpoint, "image"]
    step, name, saved = journey.step, journey.name("openstack"), journey.work / "openstack.qcow2"

    def show(image: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(journey.run(*client, "show", "-f", "json", image))
        record.update(record["properties"])  # where this client folds what it has no name for
        return record

    with step("openstack image create --disk-format qcow2 --file boot.qcow2 --property os_distro=debian --tag journey"):
        options = [*journey.file, "--property", "os_distro=debian", "--tag", "journey", "--private"]
        made = json.loads(journey.run(*client, "create", "-f", "json", *options, name))
        image = made["id"]
    with step("openstack image list --name"):
        listed = json.loads(journey.run(*client, "list", "-f", "json", "--name", name))
        same("the list", listed, [{"ID": image, "Name": name, "Status": "active"}])
    with step("openstack image show, by name: size, checksum and os_hash_value are those of the file"):
        record = show(name)
        journey.check_record(record)
        same("os_distro", record["os_distro"], "debian")
        same("tags", record["tags"], ["journey"])
    with step("openstack image set --property hw_disk_bus=virtio --min-ram 64 --tag tested"):
        journey.run(*client, "set", "--property", "hw_disk_bus=virtio", "--min-ram", "64", "--tag", "tested", image)
        record = show(image)
        same("hw_disk_bus", record["hw_disk_bus"], "virtio")
        same("min_ram", record["min_ram"], 64)
        same("tags", sorted(record["tags"]), ["journey", "tested"])
    with step("openstack image unset --property hw_disk_bus"):
        journey.run(*client, "unset", "--property", "hw_disk_bus", image)
        expect("hw_disk_bus" not in show(image), "hw_disk_bus is still there")
    with step("openstack image save: the same bytes"):
        journey.run(*client, "save", "--file", str(saved), image)
        journey.check_saved(saved)
    with step("openstack image set --deactivate, and --activate again"):
        journey.run(*client, "set", "--deactivate", image)
        same("status", show(image)["status"], "deactivated")
        journey.run(*client, "set", "--activate", image)
        same("status", show(image)["status"], "active")
    with step("openstack image delete: then it is gone"):
        journey.run(*client, "delete", image)
        expect("No Image found" in journey.refused(*client, "show", image), "show still finds it")


def glance(journey: Journey) -> None:
    """`glance --os-auth-token none --os-image-url URL ...`, or OS_AUTH_TOKEN=none OS_IMAGE_URL=URL; any token does, but there must be one.

    OS_AUTH_TYPE is for the other clients: leave it unset for this one.
    """
    client = [str(CLIENTS / "glance"), "--os-auth-token", "none", "--os-image-url", journey.endpoint]
    step, name, saved = journey.step, journey.name("glance"), journey.work / "glance.qcow2"

    def table(text: str) -> dict[str, str]:
        return dict(re.findall(r"^\| (\S+) +\| (.*?) +\|$", text, re.MULTILINE))

    def show(image: str) -> dict[str, str]:
        return table(journey.run(*client, "image-show", "--max-column-width", "200", image))

    with step("glance image-create --disk-format qcow2 --container-format bare --file boot.qcow2 --property os_distro=debian"):
        text = journey.run(*client, "image-create", "--name", name, *journey.file, "--property", "os_distro=debian")
        image = table(text)["id"]
    with step("glance image-list"):
        expect(image in table(journey.run(*client, "image-list")), "it is not listed")
    with step("glance image-show: size, checksum and os_hash_value are those of the file"):
        record = show(image)
        journey.check_record(record)
        same("name", record["name"], name)
        same("os_distro", record["os_distro"], "debian")
    with step("glance image-update --property hw_disk_bus=virtio --min-ram 64"):
        journey.run(*client, "image-update", "--property", "hw_disk_bus=virtio", "--min-ram", "64", image)
        record = show(image)
        same("hw_disk_bus", record["hw_disk_bus"], "virtio")
        same("min_ram", record["min_ram"], "64")
    with step("glance image-update --remove-property hw_disk_bus"):
        journey.run(*client, "image-update", "--remove-property", "hw_disk_bus", image)
        expect("hw_disk_bus" not in show(image), "hw_disk_bus is still there")
    with step("glance image-download: the same bytes"):
        journey.run(*client, "image-download", "--file", str(saved), image)
        journey.check_saved(saved)
    with step("glance image-deactivate and image-reactivate"):
        journey.run(*client, "image-deactivate", image)
        same("status", show(image)["status"], "deactivated")
        journey.run(*client, "image-reactivate", image)
        same("status", show(image)["status"], "active")
    with step("glance image-delete: then it is gone"):
        journey.run(*client, "image-delete", image)
        expect("404" in journey.refused(*client, "image-show", image), "image-show does not say 404")


def sdk(journey: Journey) -> None:
    """`openstack.connect(auth_type="none", endpoint=URL)`."""
    import openstack  # type: ignore[import-not-found,unused-ignore]
    from openstack.exceptions import NotFoundException  # type: ignore[import-not-found,unused-ignore]

    step, name, saved = journey.step, journey.name("sdk"), journey.work / "sdk.qcow2"
    with step('openstack.connect(auth_type="none", endpoint=...)'):
        images: Any = openstack.connect(auth_type="none", endpoint=journey.endpoint).image
    with step("create_image(filename=...)"):
        image = images.create_image(
            name,
            filename=str(journey.source),
            disk_format="qcow2",
            container_format="bare",
            os_distro="debian",
            tags=["journey"],
            wait=True,
        )
    with step("images(), find_image(name): size, checksum and os_hash_value are those of the file"):
        expect(image.id in [each.id for each in images.images(status="active")], "it is not listed as active")
        found = images.find_image(name, ignore_missing=False)
        journey.check_record({"os_hash_algo": found.hash_algo, "os_hash_value": found.hash_value} | found.to_dict())
        same("os_distro", found.os_distro, "debian")
    with step("update_image(hw_disk_bus=..., min_ram=64, tags=...)"):
        images.update_image(image.id, hw_disk_bus="virtio", min_ram=64, tags=["journey", "tested"])
        found = images.get_image(image.id)
        same("hw_disk_bus", found.hw_disk_bus, "virtio")
        same("min_ram", found.min_ram, 64)
        same("tags", sorted(found.tags), ["journey", "tested"])
    with step("download_image(stream=True): the same bytes"):
        with saved.open("wb") as file:
            for block in images.download_image(image.id, stream=True).iter_content(1 << 20):
                file.write(block)
        journey.check_saved(saved)
    with step("deactivate_image and reactivate_image"):
        images.deactivate_image(image.id)
        same("status", images.get_image(image.id).status, "deactivated")
        images.reactivate_image(image.id)
        same("status", images.get_image(image.id).status, "active")
    with step("delete_image: then it is gone"):
        images.delete_image(image.id, ignore_missing=False)
        try:
            images.get_image(image.id)
        except NotFoundException:
            pass
        else:
            raise StepError("get_image still finds it")


def ikon_user(journey: Journey, folder: Path, *words: str, password: str | None = None) -> None:
    """Run `ikon user ...` against the server in a folder."""
    command = [str(ROOT / ".venv/bin/ikon"), "user", *words, "--data", str(folder / "data")]
    given = None if password is None else f"{password}\n"
    done = subprocess.run(command, env=journey.env, input=given, capture_output=True, text=True, timeout=60, check=False)
    expect(done.returncode == 0, f"{shlex.join(command)}: {done.stderr}")


def users(journey: Journey) -> None:
    """`openstack --os-auth-type http_basic --os-username NAME --os-password PASSWORD --os-endpoint URL image ...`

    Or OS_AUTH_TYPE=http_basic, OS_USERNAME, OS_PASSWORD and OS_ENDPOINT in the environment. On a server of its own.
    """
    step, name, saved = journey.step, journey.name("users"), journey.work / "users.qcow2"
    folder = journey.work / "users"
    folder.mkdir()
    passwords = {who: secrets.token_hex(12) for who in ("alice", "ruth", "bob", "olga")}

    with own_ikon(folder, "--identity", "users") as endpoint:

        def client(who: str) -> list[str]:
            basic = ["--os-auth-type", "http_basic", "--os-username", who, "--os-password", passwords[who], "--os-endpoint", endpoint]
            return [str(CLIENTS / "openstack"), *basic, "image"]

        def listed(who: str) -> list[str]:
            return [each["ID"] for each in json.loads(journey.run(*client(who), "list", "-f", "json"))]

        with step("ikon user add alice --project home; ruth only reads there; bob has another project; olga is admin"):
            for who, project, role in (
                ("alice", "home", "member"),
                ("ruth", "home", "reader"),
                ("bob", "away", "member"),
                ("olga", "ops", "admin"),
            ):
                ikon_user(journey, folder, "add", who, "--project", project, "--role", role, "--password-stdin", password=passwords[who])
        with step("openstack --os-auth-type http_basic --os-username alice image create --file boot.qcow2"):
            image = json.loads(journey.run(*client("alice"), "create", "-f", "json", *journey.file, name))["id"]
        with step("alice, ruth of the same project and the admin list it; bob does not"):
            same("lists with the image", [who for who in passwords if image in listed(who)], ["alice", "ruth", "olga"])
            expect("No Image found" in journey.refused(*client("bob"), "show", image), "bob sees it")
        with step("openstack image save, as alice: the same bytes"):
            journey.run(*client("alice"), "save", "--file", str(saved), image)
            journey.check_saved(saved)
        with step("ruth may read, and not delete"):
            expect("403" in journey.refused(*client("ruth"), "delete", image), "the answer is no 403")
        with step("ikon user passwd alice: the old password is refused at once, the new one serves"):
            old = client("alice")
            passwords["alice"] = secrets.token_hex(12)
            ikon_user(journey, folder, "passwd", "alice", "--password-stdin", password=passwords["alice"])
            expect("401" in journey.refused(*old, "list"), "the answer is no 401")
            same("alice's list", listed("alice"), [image])
        with step("openstack image delete, as alice; ikon user remove bob: he is refused at once"):
            journey.run(*client("alice"), "delete", image)
            ikon_user(journey, folder, "remove", "bob")
            expect("401" in journey.refused(*client("bob"), "list"), "the answer is no 401")


class Party(NamedTuple):
    """A project, and how its clients are called."""

    project: str
    openstack: list[str]
    glance: list[str]


def share(journey: Journey, lender: Party, borrower: Party) -> None:
    """One project shares an image, another accepts and uses it, with either client.

    Without Keystone no client knows its own project: `set --accept` needs `--project ID`.
    """
    step, saved = journey.step, journey.work / "shared.qcow2"

    def members(party: Party, image: str) -> dict[str, str]:
        listed = json.loads(journey.run(*party.openstack, "member", "list", "-f", "json", image))
        return {entry["Member ID"]: entry["Status"] for entry in listed}

    def listed(party: Party, *options: str) -> list[str]:
        return [entry["ID"] for entry in json.loads(journey.run(*party.openstack, "list", "-f", "json", *options))]

    with step("openstack image create --shared: others do not see it"):
        made = journey.run(*lender.openstack, "create", "-f", "json", *journey.file, "--shared", journey.name("shared"))
        image = json.loads(made)["id"]
        expect("No Image found" in journey.refused(*borrower.openstack, "show", image), "it is seen")
    with step("openstack image add project: the share is pending, to be shown and not in the list"):
        journey.run(*lender.openstack, "add", "project", image, borrower.project)
        same("members", members(lender, image), {borrower.project: "pending"})
        same("status", json.loads(journey.run(*borrower.openstack, "show", "-f", "json", image))["status"], "active")
        same("the list", listed(borrower), [])
        same("the list of pending ones", listed(borrower, "--member-status", "pending"), [image])
    with step("openstack image set --accept --project: it is in the list"):
        journey.run(*borrower.openstack, "set", "--accept", "--project", borrower.project, image)
        same("members", members(borrower, image), {borrower.project: "accepted"})
        same("the list", listed(borrower), [image])
    with step("openstack image save as the other project: the same bytes"):
        journey.run(*borrower.openstack, "save", "--file", str(saved), image)
        journey.check_saved(saved)
    with step("openstack image set --tag and delete as the other project: refused"):
        for command in (["set", "--tag", "mine", image], ["delete", image]):
            expect("403" in journey.refused(*borrower.openstack, *command), f"{command} does not say 403")
    with step("openstack image set --reject, --pending: out of the list again"):
        for answer in ("--reject", "--pending"):
            journey.run(*borrower.openstack, "set", answer, "--project", borrower.project, image)
            same("the list", listed(borrower), [])
        same("members", members(lender, image), {borrower.project: "pending"})
    with step("openstack image set --tag and unset --tag, beyond ASCII"):
        journey.run(*lender.openstack, "set", "--tag", "проба 🐧", image)
        same("tags", json.loads(journey.run(*lender.openstack, "show", "-f", "json", image))["tags"], ["проба 🐧"])
        journey.run(*lender.openstack, "unset", "--tag", "проба 🐧", image)
        same("tags", json.loads(journey.run(*lender.openstack, "show", "-f", "json", image))["tags"], [])
    with step("openstack image remove project: not seen any more"):
        journey.run(*lender.openstack, "remove", "project", image, borrower.project)
        expect("No Image found" in journey.refused(*borrower.openstack, "show", image), "it is seen")
    with step("glance member-create, member-list, member-update accepted"):
        journey.run(*lender.glance, "member-create", image, borrower.project)
        expect("pending" in journey.run(*lender.glance, "member-list", "--image-id", image), "it is not listed as pending")
        expect("accepted" in journey.run(*borrower.glance, "member-update", image, borrower.project, "accepted"), "it is not accepted")
        expect("duplicated" in journey.refused(*lender.glance, "member-create", image, borrower.project), "it is added twice")
    with step("glance image-download as the other project: the same bytes"):
        journey.run(*borrower.glance, "image-download", "--file", str(saved), image)
        journey.check_saved(saved)
    with step("glance image-tag-update and image-tag-delete, beyond ASCII"):
        journey.run(*lender.glance, "image-tag-update", image, "проба")
        journey.run(*lender.glance, "image-tag-delete", image, "проба")
        expect("has no tag" in journey.refused(*lender.glance, "image-tag-delete", image, "проба"), "it is removed twice")
        expect("403" in journey.refused(*borrower.glance, "image-tag-update", image, "mine"), "the other project may tag it")
    with step("glance member-delete as the other project: it has left"):
        journey.run(*borrower.glance, "member-delete", image, borrower.project)
        expect("404" in journey.refused(*borrower.glance, "image-show", image), "it is seen")
    journey.run(*lender.openstack, "delete", image)


def two_projects(journey: Journey) -> None:
    """`share`, between built-in users of two projects, on an Ikon of its own.

    The glance client has no options for HTTP Basic: it takes name and password in the endpoint.
    """
    folder = journey.work / "shared"
    folder.mkdir()
    with own_ikon(folder, "--identity", "users") as endpoint:
        share(journey, *(party(journey, endpoint, folder, f"{project}-member", project) for project in ("lenders", "borrowers")))


def party(journey: Journey, endpoint: str, folder: Path, user: str, project: str) -> Party:
    """A new user of a project, and the clients as that user calls them."""
    password = secrets.token_hex(12)
    ikon_user(journey, folder, "add", user, "--project", project, "--role", "member", "--password-stdin", password=password)
    basic = ["--os-auth-type", "http_basic", "--os-username", user, "--os-password", password, "--os-endpoint", endpoint]
    inside = endpoint.replace("http://", f"http://{user}:{password}@")
    return Party(
        project,
        [str(CLIENTS / "openstack"), *basic, "image"],
        [str(CLIENTS / "glance"), "--os-auth-token", "none", "--os-image-url", inside],
    )


class Place(NamedTuple):
    """An Ikon that imports, how its clients are called, and what there is to import: a URL, and an image in the region `east`."""

    endpoint: str
    openstack: list[str]
    glance: list[str]
    url: str
    remote: str


def imports(journey: Journey) -> None:
    """Data that is staged or fetched and brought into stores by a job: on an Ikon of its own, from a web server and from another Ikon."""
    folder, away, port = journey.work / "imports", journey.work / "east", free_port()
    for each in (folder, away):
        each.mkdir()
    with own_ikon(away) as east, published(journey.source.parent, port):
        made = journey.run(*clients(east)[0], "create", "-f", "json", *journey.file, "--property", "os_distro=debian", journey.name("east"))
        config = folder / "ikon.toml"
        stores = "".join(f'[stores.{name}]\ntype = "file"\npath = "{folder / name}"\n' for name in ("one", "two"))
        egress = f'[egress]\nallowed_networks = ["127.0.0.0/8"]\nallowed_ports = [{port}]\n'
        config.write_text(f'{stores}{egress}[regions.east]\nurl = "{east}"\n')
        with own_ikon(folder, "--config", str(config)) as endpoint:
            url = f"http://127.0.0.1:{port}/{journey.source.name}"
            place = Place(endpoint, *clients(endpoint), url, json.loads(made)["id"])
            import_by_openstack(journey, place)
            import_by_glance(journey, place)


def clients(endpoint: str) -> tuple[list[str], list[str]]:
    """How `openstack image` and `glance` are called where nobody has to say who they are."""
    openstack = [str(CLIENTS / "openstack"), "--os-auth-type", "none", "--os-endpoint", endpoint, "image"]
    return openstack, [str(CLIENTS / "glance"), "--os-auth-token", "none", "--os-image-url", endpoint]


def asked(endpoint: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """An answer of an Ikon that this journey started, without a client: these take seconds, and have shown elsewhere what they can."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(endpoint + path, data, {"Content-Type": "application/json"}), timeout=30) as answer:
        return dict(json.load(answer))


def imported(journey: Journey, place: Place, image: str, stores: str = "one") -> dict[str, Any]:
    """The record of an image once it is in these stores: it must be active, with the digest of the file."""
    for _ in range(600):
        record = asked(place.endpoint, f"/v2/images/{image}")
        if "os_glance_import_task" not in record:
            break
        time.sleep(0.1)
    same("status", record["status"], "active")
    same("stores", record["stores"], stores)
    same("os_hash_value", record["os_hash_value"], journey.sha512)
    return record


def import_by_openstack(journey: Journey, place: Place) -> None:
    """Each method, by `openstack image import`; the client sends a region only where it is told an interface too."""
    step, client = journey.step, place.openstack

    formats = {"disk_format": "qcow2", "container_format": "bare"}

    def new() -> str:
        """A record without data."""
        return str(asked(place.endpoint, "/v2/images", formats)["id"])

    with step("openstack image create --import --file boot.qcow2"):
        made = journey.run(*client, "create", "-f", "json", "--import", *journey.file, journey.name("import"))
        imported(journey, place, json.loads(made)["id"])
    with step("openstack image create without data, at a terminal; stage; import --method glance-direct --all-stores"):
        options = ["--disk-format", "qcow2", "--container-format", "bare", journey.name("import")]
        image = json.loads(journey.run(*client, "create", "-f", "json", *options, terminal=True))["id"]
        journey.run(*client, "stage", "--file", str(journey.source), image)
        journey.run(*client, "import", "--method", "glance-direct", "--all-stores", image)
        imported(journey, place, image, "one,two")
    with step("glance stores-delete --store two: one copy less, and the last one stays"):
        journey.run(*place.glance, "stores-delete", "--store", "two", image)
        imported(journey, place, image, "one")
        expect("403" in journey.refused(*place.glance, "stores-delete", "--store", "one", image), "the last copy may go")
    with step("openstack image import --method copy-image --store two: one copy more"):
        journey.run(*client, "import", image, "--method", "copy-image", "--store", "two")
        imported(journey, place, image, "one,two")
    with step("openstack image import --method web-download --uri http://..."):
        image = new()
        journey.run(*client, "import", "--method", "web-download", "--uri", place.url, image)
        imported(journey, place, image)
    with step("openstack image import --method glance-download --remote-region east --remote-image ID: with what the operator chose"):
        image = new()
        region = ["--remote-region", "east", "--remote-image", place.remote, "--remote-service-interface", "public"]
        journey.run(*client, "import", "--method", "glance-download", *region, image)
        same("os_distro", imported(journey, place, image)["os_distro"], "debian")
    with step("openstack image task list and show: what was done"):
        tasks = json.loads(journey.run(*client, "task", "list", "-f", "json"))
        same("tasks", [(task["Type"], task["Status"]) for task in tasks], [("api_image_import", "success")] * 5)
        shown = json.loads(journey.run(*client, "task", "show", "-f", "json", tasks[0]["ID"]))
        same("status", shown["status"], "success")
        same("image", shown["result"], {"image_id": image})
    with step("openstack image import --method glance-download of an image that is not there: the task says why"):
        image = new()
        region = ["--remote-region", "east", "--remote-image", image, "--remote-service-interface", "public"]
        journey.run(*client, "import", "--method", "glance-download", *region, image)
        for _ in range(600):
            task = asked(place.endpoint, f"/v2/images/{image}/tasks")["tasks"][0]
            if task["status"] == "failure":
                break
            time.sleep(0.1)
        said = json.loads(journey.run(*client, "task", "show", "-f", "json", task["id"]))["message"]
        expect(f"Region east does not give image {image}" in said, said)


def import_by_glance(journey: Journey, place: Place) -> None:
    """Each method, by `glance image-create-via-import`; it has to be at a terminal, for it takes anything else for the data."""
    step, client = journey.step, place.glance
    new = ["image-create-via-import", "--disk-format", "qcow2", "--container-format", "bare", "--name"]

    def rows(text: str) -> dict[str, str]:
        return dict(re.findall(r"^\| (\S+) +\| (.*?) +\|$", text, re.MULTILINE))

    def create(*options: str) -> str:
        return rows(journey.run(*client, *new, journey.name("import"), *options, terminal=True))["id"]

    def values(*command: str) -> str:
        """The second column of what a command prints, whose lines the client breaks anywhere."""
        return "".join(re.findall(r"^\| .*? \| (.*?) *\|$", journey.run(*client, *command), re.MULTILINE))

    with step("glance import-info and stores-info: what this Ikon offers"):
        offered = values("import-info")
        for method in ("glance-direct", "web-download", "copy-image", "glance-download"):
            expect(f'"{method}"' in offered, f"{method} is not offered: {offered}")
        stores = values("stores-info")
        expect('"one"' in stores and '"two"' in stores, f"stores are missing: {stores}")
        detail = values("stores-info", "--detail")
        expect('"type": "file"' in detail, f"their types are missing: {detail}")
    with step("glance image-create-via-import --import-method glance-direct --file boot.qcow2 --stores one,two"):
        image = create("--import-method", "glance-direct", "--file", str(journey.source), "--stores", "one,two")
        imported(journey, place, image, "one,two")
    with step("glance image-create-via-import --import-method web-download --uri http://..."):
        image = create("--import-method", "web-download", "--uri", place.url)
        imported(journey, place, image)
    with step("glance image-create-via-import --import-method copy-image: the client says that this makes no image; image-import does it"):
        said = journey.refused(*client, *new, "x", "--import-method", "copy-image", terminal=True)
        expect("cannot be used while creating" in said, said)
        journey.run(*client, "image-import", image, "--import-method", "copy-image", "--stores", "two", terminal=True)
        imported(journey, place, image, "one,two")
    with step("glance image-create-via-import --import-method glance-download --remote-region east --remote-image-id ID"):
        image = create("--import-method", "glance-download", "--remote-region", "east", "--remote-image-id", place.remote)
        same("os_distro", imported(journey, place, image)["os_distro"], "debian")
    with step("glance task-create --type import: an image of what a URL gives; task-list, task-show and image-tasks tell of it"):
        given = {"import_from": place.url, "import_from_format": "qcow2", "image_properties": {"name": journey.name("task")}}
        task = rows(journey.run(*client, "task-create", "--type", "import", "--input", json.dumps(given)))
        imported(journey, place, task["image_id"])
        expect(task["id"] in journey.run(*client, "task-list", "--type", "import", "--status", "success"), "it is not listed")
        same("status", rows(journey.run(*client, "task-show", task["id"]))["status"], "success")
        expect("success" in journey.run(*client, "image-tasks", task["image_id"]), "it is not among the image's")


@contextlib.contextmanager
def published(folder: Path, port: int) -> Iterator[None]:
    """A web server for the files of a folder."""
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def boot(journey: Journey) -> None:
    """A guest starts from the last file that a client saved: all were compared with what was sent."""
    saved = sorted(journey.work.glob("*.qcow2"), key=lambda file: file.stat().st_mtime)
    with journey.step("qemu-system-x86_64 boots the saved image to ikon-boot-ok on its serial console"):
        expect(bool(saved), "no client saved it")
        said = journey.run(str(ROOT / "tests/services/images.sh"), "boot", str(saved[-1]))
        expect("ikon-boot-ok" in said, f"the serial console said: {said}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def own_ikon(work: Path, *options: str) -> Iterator[str]:
    """An Ikon for this journey alone: its endpoint. What it logged is printed when the journey fails."""
    listen, log = f"127.0.0.1:{free_port()}", work / "ikon.log"
    began = time.monotonic()
    with log.open("wb") as out:
        command = [str(ROOT / ".venv/bin/ikon"), "serve", "--data", str(work / "data"), "--listen", listen, *options]
        server = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        while not answers(f"http://{listen}"):
            if server.poll() is not None or time.monotonic() - began > 30:
                raise StepError(f"{shlex.join(command)} does not serve:\n{log.read_text()[-4000:]}")
            time.sleep(0.02)
        print(f"ok      {shlex.join(['ikon', *command[1:]])}  (first answer after {time.monotonic() - began:.2f} s)", flush=True)
        yield f"http://{listen}"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def travel(endpoint: str, source: Path, work: Path) -> int:
    """All chapters."""
    journey = Journey(endpoint.rstrip("/"), source, work)
    # this process is a client too (openstacksdk): the same surroundings as its children
    os.environ.clear()
    os.environ.update(journey.env)
    began = time.monotonic()
    stories = {
        "openstack client": openstack,
        "glance client": glance,
        "openstacksdk": sdk,
        "built-in users": users,
        "two projects": two_projects,
        "import": imports,
        "a guest": boot,
    }
    for title, story in stories.items():
        journey.chapter(title, lambda story=story: story(journey))  # type: ignore[misc]
    outcome = f"{journey.failed} of {len(stories)} chapters failed" if journey.failed else f"all {len(stories)} chapters went well"
    print(f"\n{outcome}, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if journey.failed else 0


def main() -> int:
    source, *endpoint = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its own server is stopped too
    with tempfile.TemporaryDirectory(prefix="ikon-journey-") as folder, contextlib.ExitStack() as world:
        work = Path(folder)
        try:
            where = endpoint[0] if endpoint else world.enter_context(own_ikon(work))
        except StepError as problem:
            print(f"FAILED  {problem}")
            return 1
        status = travel(where, Path(source), work)
        if status and not endpoint:
            print(f"the server's last words:\n{(work / 'ikon.log').read_text()[-4000:]}")
        return status


if __name__ == "__main__":
    sys.exit(main())
