"""Who may do what to which image: personas, images, and one table of what each may do, from which every expected answer is made."""

from typing import Any, NamedTuple

from tests.wire.server import ADMIN, BYTES, NOBODY, PATCH, Headers, Persona

HOME = "home"
#: Projects that an image of `home` is shared with, by what they answered; `bystander` is one of them, and nobody here acts for it.
PARTNERS = {"pending": "undecided", "accepted": "partner", "rejected": "refuser"}
MEMBERS = {**{project: status for status, project in PARTNERS.items()}, "bystander": "pending"}

PERSONAS: dict[str, Persona | Headers] = {
    "administrator": ADMIN,
    "administrator with that role alone": Persona("operators", "admin"),
    "administrator of the image's project": Persona(HOME, "admin,member,reader"),
    "administrator without a project": Persona(None, "admin,member,reader"),
    "member": Persona(HOME),
    "manager": Persona(HOME, "manager,member,reader"),
    "member in capitals": Persona(HOME, "Member, READER"),
    "reader": Persona(HOME, "reader"),
    "member that is no reader": Persona(HOME, "member"),
    "service": Persona(HOME, "service"),
    "nobody": Persona(HOME, ""),
    **{f"{status} partner": Persona(project) for status, project in PARTNERS.items()},
    **{f"reading {status} partner": Persona(project, "reader") for status, project in PARTNERS.items()},
    "service of a partner": Persona(PARTNERS["accepted"], "service"),
    "former partner": Persona("left"),
    "stranger": Persona("elsewhere"),
    "reading stranger": Persona("elsewhere", "reader"),
    "strange service": Persona("elsewhere", "service"),
    "without a project": Persona(None),
    "without a project or roles": Persona(None, ""),
    "of the system": Persona(None, "admin,member,reader", system=True),
    "of the system with a project": Persona(HOME, "admin,member,reader", system=True),
    "unknown": NOBODY,
    "found invalid": Persona(HOME, "admin,member,reader").headers | {"X-Identity-Status": "Invalid"},
}

#: Images by name: their owner and visibility. All of them have the members above.
IMAGES: dict[str, tuple[str | None, str]] = {
    **{visibility: (HOME, visibility) for visibility in ("public", "community", "shared", "private")},
    "nobody's": (None, "shared"),
}

#: What each may do. The image it needs is queued, active, copied (to a second store), deactivated or protected. Columns of answers:
#: an administrator; member and reader of the image's project; of a project that it is shared with; of any other that sees it.
#: Who does not see it gets 404, and who is not identified 401. A row with a visibility, or with "other", holds for those images alone.
TABLE = """
show                     queued       any     GET     /v2/images/{id}                             200   200 200   200 200   200 200
look                     queued       any     HEAD    /v2/images/{id}                             200   200 200   200 200   200 200
page from there          queued       any     GET     /v2/images?limit=1&marker={id}              200   200 200   200 200   200 200
patch nothing            queued       any     PATCH   /v2/images/{id}                             200   200 200   200 200   200 200
rename                   queued       any     PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
add a property           queued       any     PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
remove a property        queued       any     PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
protect                  queued       any     PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
hide                     queued       any     PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
set public               queued       public  PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
set public               queued       other   PATCH   /v2/images/{id}                             200   403 403   403 403   403 403
set community            queued       any     PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
set shared               queued       any     PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
set private              queued       any     PATCH   /v2/images/{id}                             200   200 403   403 403   403 403
replace the owner        queued       any     PATCH   /v2/images/{id}                             200   403 403   403 403   403 403
add an owner             queued       any     PATCH   /v2/images/{id}                             200   403 403   403 403   403 403
tag                      queued       any     PUT     /v2/images/{id}/tags/new                    204   204 403   403 403   403 403
untag                    queued       any     DELETE  /v2/images/{id}/tags/old                    204   204 403   403 403   403 403
upload                   queued       any     PUT     /v2/images/{id}/file                        204   204 403   403 403   403 403
stage                    queued       any     PUT     /v2/images/{id}/stage                       204   204 403   403 403   403 403
import without data      queued       any     POST    /v2/images/{id}/import                      409   409 409   409 409   409 409
copy by import           active       any     POST    /v2/images/{id}/import                      202   403 403   403 403   403 403
tasks of an image        queued       any     GET     /v2/images/{id}/tasks                       200   200 200   403 403   403 403
hold to definitions      queued       any     GET     /ikon/v1/images/{id}/lint                   200   200 200   200 200   200 200
timeline of an image     queued       any     GET     /ikon/v1/images/{id}/timeline               200   200 200   403 403   403 403
ask for no data          queued       any     GET     /v2/images/{id}/file                        204   204 403   204 403   204 403
download                 active       any     GET     /v2/images/{id}/file                        200   200 403   200 403   200 403
ask for the size         active       any     HEAD    /v2/images/{id}/file                        200   200 403   200 403   200 403
deactivate               active       any     POST    /v2/images/{id}/actions/deactivate          204   204 403   403 403   403 403
download what is off     deactivated  any     GET     /v2/images/{id}/file                        200   403 403   403 403   403 403
reactivate               deactivated  any     POST    /v2/images/{id}/actions/reactivate          204   204 403   403 403   403 403
copy                     active       any     POST    /ikon/v1/images/{id}/copies                 202   403 403   403 403   403 403
remove a copy            copied       any     DELETE  /v2/stores/two/{id}                         204   403 403   403 403   403 403
name where no store is   queued       any     POST    /v2/images/{id}/locations                   403   403 403   403 403   403 403
look where the data is   active       any     GET     /v2/images/{id}/locations                   200   403 403   403 403   403 403
list members             queued       shared  GET     /v2/images/{id}/members                     200   200 200   200 200   -   -
list members             queued       other   GET     /v2/images/{id}/members                     403   403 403   -   -     403 403
show one's entry         queued       shared  GET     /v2/images/{id}/members/{self}              200   200 200   200 200   -   -
show one's entry         queued       other   GET     /v2/images/{id}/members/{self}              404   404 404   -   -     404 404
show another's entry     queued       shared  GET     /v2/images/{id}/members/bystander           200   200 200   404 404   -   -
show another's entry     queued       other   GET     /v2/images/{id}/members/bystander           404   404 404   -   -     404 404
add a member             queued       shared  POST    /v2/images/{id}/members                     200   200 403   403 403   -   -
add a member             queued       other   POST    /v2/images/{id}/members                     403   403 403   -   -     403 403
answer for oneself       queued       shared  PUT     /v2/images/{id}/members/{self}              200   403 403   200 403   -   -
answer for oneself       queued       other   PUT     /v2/images/{id}/members/{self}              403   403 403   -   -     403 403
answer for another       queued       shared  PUT     /v2/images/{id}/members/bystander           200   403 403   404 404   -   -
answer for another       queued       other   PUT     /v2/images/{id}/members/bystander           403   403 403   -   -     403 403
leave                    queued       shared  DELETE  /v2/images/{id}/members/{self}              204   204 403   204 403   -   -
leave                    queued       other   DELETE  /v2/images/{id}/members/{self}              403   403 403   -   -     403 403
remove another           queued       shared  DELETE  /v2/images/{id}/members/bystander           204   204 403   403 403   -   -
remove another           queued       other   DELETE  /v2/images/{id}/members/bystander           403   403 403   -   -     403 403
remove no member         queued       shared  DELETE  /v2/images/{id}/members/absent              404   404 403   403 403   -   -
remove no member         queued       other   DELETE  /v2/images/{id}/members/absent              403   403 403   -   -     403 403
delete                   active       any     DELETE  /v2/images/{id}                             204   204 403   403 403   403 403
delete what is kept      protected    any     DELETE  /v2/images/{id}                             403   403 403   403 403   403 403
"""
#: What services may do to images that they need not be able to show, with their answers.
SERVICES = {"look where the data is": 200, "name where no store is": 400}
#: Without an image: an administrator, a member, one without the role reader, a reader, the role service, and nobody in particular.
PLAIN = """
create                   POST  /v2/images              201  201  201  403  403  403
create community         POST  /v2/images              201  201  201  403  403  403
create for oneself       POST  /v2/images              201  201  201  403  403  403
create public            POST  /v2/images              201  403  403  403  403  403
create for another       POST  /v2/images              201  403  403  403  403  403
create for nobody        POST  /v2/images              201  403  403  403  403  403
list                     GET   /v2/images              200  200  403  200  403  403
list everything          GET   /v2/images?visibility=all   200  200  403  200  403  403
stores in detail         GET   /v2/info/stores/detail  200  403  403  403  200  403
list users               GET   /ikon/v1/users              200  403  403  403  403  403
add a user               POST  /ikon/v1/users              204  403  403  403  403  403
change a password        PUT   /ikon/v1/users/x/password   404  403  403  403  403  403
remove a user            DELETE /ikon/v1/users/x           404  403  403  403  403  403
list jobs                GET   /ikon/v1/jobs               200  403  403  403  403  403
one job                  GET   /ikon/v1/jobs/x             404  403  403  403  403  403
retry a job              POST  /ikon/v1/jobs/x/retry       404  403  403  403  403  403
cancel a job             POST  /ikon/v1/jobs/x/cancel      404  403  403  403  403  403
list the trash           GET   /ikon/v1/trash              200  403  403  403  403  403
empty the trash          DELETE /ikon/v1/trash             200  403  403  403  403  403
purge an image           DELETE /ikon/v1/trash/x           404  403  403  403  403  403
restore an image         POST  /ikon/v1/trash/x/restore    404  403  403  403  403  403
list definitions         GET   /ikon/v1/metadefs           200  403  403  403  403  403
load no definitions      POST  /ikon/v1/metadefs           400  403  403  403  403  403
export no definitions    GET   /ikon/v1/metadefs/x         404  403  403  403  403  403
remove no definitions    DELETE /ikon/v1/metadefs/x        404  403  403  403  403  403
list quotas              GET   /ikon/v1/quotas             409  403  403  403  403  403
one project's quota      GET   /ikon/v1/quotas/x           409  403  403  403  403  403
limit a project          PUT   /ikon/v1/quotas/x           409  403  403  403  403  403
limit it no more         DELETE /ikon/v1/quotas/x          409  403  403  403  403  403
list periodic processes  GET   /ikon/v1/periodic           200  403  403  403  403  403
run what is not there    POST  /ikon/v1/periodic/x/run     404  403  403  403  403  403
tasks                    GET   /v2/tasks               200  403  403  403  403  403
post a task              POST  /v2/tasks               400  403  403  403  403  403
one task                 GET   /v2/tasks/x             404  403  403  403  403  403
usage                    GET   /v2/info/usage          200  200  200  200  200  200
stores                   GET   /v2/info/stores         200  200  200  200  200  200
import methods           GET   /v2/info/import         200  200  200  200  200  200
schema of a task         GET   /v2/schemas/task        200  200  200  200  200  200
schema of tasks          GET   /v2/schemas/tasks       200  200  200  200  200  200
list of projects         GET   /v2/tenants             403  403  403  403  403  403
schema of an image       GET   /v2/schemas/image       200  200  200  200  200  200
schema of images         GET   /v2/schemas/images      200  200  200  200  200  200
schema of a member       GET   /v2/schemas/member      200  200  200  200  200  200
schema of members        GET   /v2/schemas/members     200  200  200  200  200  200
"""


def _change(op: str, path: str, *value: Any) -> list[dict[str, Any]]:
    return [{"op": op, "path": path} | ({"value": value[0]} if value else {})]


#: Bodies by operation: JSON, or the bytes of an image.
BODIES: dict[str, Any] = {
    "patch nothing": [],
    "rename": _change("replace", "/name", "changed"),
    "add a property": _change("add", "/new", "changed"),
    "remove a property": _change("remove", "/old"),
    "protect": _change("replace", "/protected", True),
    "hide": _change("replace", "/os_hidden", True),
    **{f"set {name}": _change("replace", "/visibility", name) for name in ("public", "community", "shared", "private")},
    "replace the owner": _change("replace", "/owner", "elsewhere"),
    "add an owner": _change("add", "/owner", "elsewhere"),
    "upload": b"data",
    "stage": b"data",
    "import without data": {"method": {"name": "glance-direct"}},
    "copy by import": {"method": {"name": "copy-image"}, "stores": ["two"]},
    "copy": {"store": "two"},
    "name where no store is": {"url": "http://images.example.org/x"},
    "add a member": {"member": "newcomer"},
    "answer for oneself": {"status": "accepted"},
    "answer for another": {"status": "accepted"},
    "add a user": {"name": "taken", "project": "home", "password": "correct horse battery", "roles": ["reader"]},
    "change a password": {"password": "correct horse battery"},
    "limit a project": {"images": 3},
    "post a task": {"type": "import", "input": {"import_from": "http://10.0.0.1/x", "import_from_format": "raw"}},
    "create": {},
    "create community": {"visibility": "community"},
    "create for oneself": {"owner": "{project}"},
    "create public": {"visibility": "public"},
    "create for another": {"owner": "third"},
    "create for nobody": {"owner": None},
}


class Operation(NamedTuple):
    """One thing to do to an image in a state. answers: by standing, None where nobody stands so."""

    name: str
    state: str
    images: str
    method: str
    path: str
    answers: dict[str, int | None]

    @property
    def writes(self) -> bool:
        return self.method not in ("GET", "HEAD")

    @property
    def headers(self) -> Headers:
        return PATCH if self.method == "PATCH" else BYTES if self.path.endswith(("/file", "/stage")) else {}


STANDINGS = ("administrator", "owner", "owner's reader", "partner", "partner's reader", "stranger", "strange reader")


def operations() -> dict[str, list[Operation]]:
    """The rows of the table, by name; those for one visibility stand before those for the others."""
    rows: dict[str, list[Operation]] = {}
    for line in TABLE.strip().splitlines():
        name, rest = line[:24].strip(), line[24:].split()
        answers = [None if answer == "-" else int(answer) for answer in rest[4:]]
        rows.setdefault(name, []).append(Operation(name, *rest[:4], dict(zip(STANDINGS, answers, strict=True))))
    return rows


OPERATIONS = operations()


def plain() -> list[tuple[str, str, str, dict[str, int]]]:
    """Name, method, path and answers by kind of each row of the second table."""
    kinds = ("administrator", "member", "member only", "reader", "service", "nobody")
    rows = [(line[:24].strip(), line[24:].split()) for line in PLAIN.strip().splitlines()]
    return [(name, rest[0], rest[1], dict(zip(kinds, map(int, rest[2:]), strict=True))) for name, rest in rows]


def sees(who: Persona, owner: str | None, visibility: str) -> bool:
    """Whether the image's row exists for the persona's project at all, whatever its roles."""
    if "admin" in _roles(who) and not who.system:
        return True
    partner = visibility == "shared" and who.project in MEMBERS
    return visibility in ("public", "community") or (who.project is not None and who.project == owner) or partner


def standing(who: Persona | Headers, owner: str | None, visibility: str) -> str | None:
    """The column of the table that holds for a persona and an image; None for those to whom the image does not exist."""
    if not isinstance(who, Persona):
        return "unidentified"
    roles = _roles(who)
    if "admin" in roles and not who.system:
        return "administrator"
    if not sees(who, owner, visibility) or "reader" not in roles or who.project is None or who.system:
        return None
    side = "owner" if who.project == owner else "partner" if visibility == "shared" else "stranger"
    member = "member" in roles
    return {"owner": "owner" if member else "owner's reader", "partner": "partner" if member else "partner's reader"}.get(
        side, "stranger" if member else "strange reader"
    )


def expected(operation: str, who: Persona | Headers, image: str) -> int:
    """The status that the table gives."""
    owner, visibility = IMAGES[image]
    column = standing(who, owner, visibility)
    if column == "unidentified":
        return 401
    if operation == "page from there":  # lists have a rule of their own: no reader, no list; a hidden marker is no marker
        return 403 if kind(who) not in ("administrator", "member", "reader") else 200 if column else 400
    if operation in SERVICES and isinstance(who, Persona) and kind(who) == "service" and not who.system and sees(who, owner, visibility):
        return SERVICES[operation]
    if column is None:
        return 404
    answer = next(row for row in OPERATIONS[operation] if row.images in ("any", visibility, "other")).answers[column]
    assert answer is not None, (operation, column)
    return answer


def kind(who: Persona | Headers) -> str:
    """The column of the second table that holds for a persona."""
    if not isinstance(who, Persona):
        return "unidentified"
    roles = _roles(who)
    if who.system:
        return "service" if "service" in roles else "nobody"
    if "admin" in roles:
        return "administrator"
    if "service" in roles:
        return "service"
    if who.project is None:
        return "nobody"
    return (
        "member" if {"member", "reader"} <= roles else "member only" if "member" in roles else "reader" if "reader" in roles else "nobody"
    )


def _roles(who: Persona) -> set[str]:
    return {role.strip().lower() for role in who.roles.split(",")}
