"""Users that Ikon itself knows, and what projects share."""

import json
import secrets
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from chapters.story import CLIENTS, ROOT, Journey, expect, own_ikon, same


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


def share_by_openstack(journey: Journey, lender: Party, borrower: Party) -> str:
    """One project shares an image, another accepts and uses it. Returns the image, which is shared no more.

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
    return image


def share_by_glance(journey: Journey, lender: Party, borrower: Party, image: str) -> None:
    """The same of an image that is there."""
    step, saved = journey.step, journey.work / "shared.qcow2"

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


def two_projects(journey: Journey) -> None:
    """An image is shared, with either client, between built-in users of two projects, on an Ikon of its own.

    The glance client has no options for HTTP Basic: it takes name and password in the endpoint.
    """
    folder = journey.work / "shared"
    folder.mkdir()
    with own_ikon(folder, "--identity", "users") as endpoint:
        lender, borrower = (party(journey, endpoint, folder, f"{project}-member", project) for project in ("lenders", "borrowers"))
        image = share_by_openstack(journey, lender, borrower)
        share_by_glance(journey, lender, borrower, image)
        journey.run(*lender.openstack, "delete", image)


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
