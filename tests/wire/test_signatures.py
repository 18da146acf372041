"""Signed images, with a real Keystone and a real Barbican: what is verified, what is refused and leaves nothing behind, and who is to blame."""

import base64
import gzip
import json
import os
import pty
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.faults.world import eventually, noise
from tests.services.servers import Server
from tests.unit.formats import made
from tests.wire.server import BYTES, UNUSED_ID, Answer, Ikon
from tests.wire.test_keystone import OPENSTACK, PROJECTS, SECRET, Cloud, by

pytestmark = pytest.mark.slow

DATA = noise(3_000_000)
HASHES = {"SHA-224": hashes.SHA224(), "SHA-256": hashes.SHA256(), "SHA-384": hashes.SHA384(), "SHA-512": hashes.SHA512()}
RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
DSA = dsa.generate_private_key(2048)
EC384, EC521 = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())
SIGNATURE, HASH, KIND, CERTIFICATE = (
    "img_signature",
    "img_signature_hash_method",
    "img_signature_key_type",
    "img_signature_certificate_uuid",
)


def certificate(key: Any, *, days: tuple[int, int] = (-1, 30)) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    begin, end = (datetime.now(UTC) + timedelta(days=each) for each in days)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    return builder.not_valid_before(begin).not_valid_after(end).sign(key, hashes.SHA256())


def signature(key: Any, method: str, data: bytes) -> str:
    chosen = HASHES[method]
    if isinstance(key, rsa.RSAPrivateKey):
        made = key.sign(data, padding.PSS(padding.MGF1(chosen), padding.PSS.MAX_LENGTH), chosen)
    elif isinstance(key, dsa.DSAPrivateKey):
        made = key.sign(data, chosen)
    else:
        made = key.sign(data, ec.ECDSA(chosen))
    return base64.b64encode(made).decode()


class KeyManager(NamedTuple):
    """A Barbican, spoken to by plain HTTP."""

    server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def keep(self, token: str, content: bytes, kind: str = "certificate") -> str:
        """The id of a new secret."""
        body = {"secret_type": kind, "payload": base64.b64encode(content).decode()}
        body |= {"payload_content_type": "application/octet-stream", "payload_content_encoding": "base64"}
        headers = {"X-Auth-Token": token, "Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/v1/secrets", json.dumps(body).encode(), headers), timeout=60
        ) as answer:
            return str(json.load(answer)["secret_ref"].rpartition("/")[2])


@pytest.fixture(scope="module")
def cloud(keystone: Server) -> Cloud:
    return Cloud(keystone)


@pytest.fixture(scope="module")
def barbican(cloud: Cloud) -> Iterator[KeyManager]:
    """A key manager that Keystone's catalogue knows."""
    with Server("barbican", KEYSTONE_URL=cloud.url) as server:
        manager = KeyManager(server)
        admin = {"X-Auth-Token": cloud.token("admin")}
        service = cloud.call("POST", "/services", {"service": {"type": "key-manager", "name": "barbican"}}, admin)[0]["service"]["id"]
        endpoint = {"interface": "public", "url": manager.url, "service_id": service, "region_id": "RegionOne"}
        cloud.call("POST", "/endpoints", {"endpoint": endpoint}, admin)
        yield manager


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the data on a web server, which is not where Keystone is: nothing is fetched from there."""
    directory = tmp_path_factory.mktemp("web")
    (directory / "data").write_bytes(DATA)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.2", 0), partial(Quiet, directory=directory))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.2:{server.server_address[1]}/data"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def settings(cloud: Cloud, source: str) -> dict[str, Any]:
    port = int(source.rpartition(":")[2].partition("/")[0])
    stores: dict[str, Any] = {"one": {}, "web": {"type": "http"}}
    egress = {"allowed_networks": ["127.0.0.2/32"], "allowed_ports": [port]}
    return cloud.settings() | {"egress": egress, "stores": stores, "show_locations": True}


@pytest.fixture(scope="module")
def ikon(settings: dict[str, Any], barbican: KeyManager, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    with Ikon(tmp_path_factory.mktemp("ikon"), **settings) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


@pytest.fixture(scope="module")
def alice(cloud: Cloud) -> dict[str, str]:
    return by(cloud.token("alice"))


@pytest.fixture(scope="module")
def signed(barbican: KeyManager, alice: dict[str, str]) -> Callable[..., dict[str, str]]:
    """Makes the properties of data that is signed, the certificate being kept for alice."""
    known: dict[tuple[int, Encoding], str] = {}

    def make(data: bytes, key: Any = RSA, kind: str = "RSA-PSS", method: str = "SHA-256", form: Encoding = Encoding.PEM) -> dict[str, str]:
        uuid = known.get((id(key), form)) or barbican.keep(alice["X-Auth-Token"], certificate(key).public_bytes(form))
        known[id(key), form] = uuid
        return {SIGNATURE: signature(key, method, data), HASH: method, KIND: kind, CERTIFICATE: uuid}

    return make


def new(ikon: Ikon, who: dict[str, str], **fields: Any) -> str:
    answer = ikon.try_create({"disk_format": "raw", "container_format": "bare"} | fields, who=who)
    assert answer.status == 201, answer
    return str(answer.json["id"])


def send(ikon: Ikon, image: str, data: Any, who: dict[str, str], to: str = "file") -> Answer:
    return ikon.call("PUT", f"/v2/images/{image}/{to}", data, BYTES, who=who)


def begin_import(ikon: Ikon, image: str, who: dict[str, str], **method: str) -> Answer:
    return ikon.post(f"/v2/images/{image}/import", {"method": {"name": "glance-direct"} | method}, who=who)


def ended(ikon: Ikon, image: str, who: dict[str, str]) -> dict[str, Any]:
    """The latest task of an image, once it has ended."""

    def last() -> Any:
        task = ikon.get(f"/v2/images/{image}/tasks", who=who).json["tasks"][-1]
        return task if task["status"] in ("success", "failure") else None

    return dict(eventually(last, 60))


def state(ikon: Ikon, image: str, who: dict[str, str]) -> tuple[str, int | None, str | None]:
    record = ikon.get(f"/v2/images/{image}", who=who).json
    return record["status"], record["size"], record["checksum"]


def files(ikon: Ikon) -> list[str]:
    staged = (ikon.directory / "data/staging").rglob("*")
    return sorted(str(path) for path in (*ikon.files(), *staged) if path.is_file())


@pytest.mark.parametrize(
    ("key", "kind", "method", "form"),
    [
        pytest.param(RSA, "RSA-PSS", "SHA-256", Encoding.PEM, id="RSA-PSS SHA-256 PEM"),
        pytest.param(RSA, "RSA-PSS", "SHA-512", Encoding.DER, id="RSA-PSS SHA-512 DER"),
        pytest.param(DSA, "DSA", "SHA-224", Encoding.PEM, id="DSA SHA-224"),
        pytest.param(EC384, "ECC_SECP384R1", "SHA-384", Encoding.PEM, id="ECC_SECP384R1 SHA-384"),
        pytest.param(EC521, "ECC_SECP521R1", "SHA-512", Encoding.PEM, id="ECC_SECP521R1 SHA-512"),
    ],
)
def test_data_that_is_signed_is_taken_and_any_other_is_not(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]], key: Any, kind: str, method: str, form: Encoding
) -> None:
    image = new(ikon, alice, **signed(DATA, key, kind, method, form))
    before = files(ikon)

    for other in (DATA[:-1], DATA + b"x", b"x" + DATA[1:], b""):
        answer = send(ikon, image, other, alice)
        assert (answer.status, f"Signature verification failed for image {image}: " in answer.message) == (400, True), answer
        assert (state(ikon, image, alice), files(ikon)) == (("queued", None, None), before)
        assert ikon.get(f"/v2/images/{image}/file", who=alice).status == 204
    assert send(ikon, image, iter([DATA[:7], DATA[7:]]), alice).status == 204
    assert state(ikon, image, alice)[:2] == ("active", len(DATA))


def test_a_certificate_of_another_key_verifies_nothing(ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]]) -> None:
    image = new(ikon, alice, **signed(DATA) | {SIGNATURE: signature(OTHER_RSA, "SHA-256", DATA)})

    assert send(ikon, image, DATA, alice).status == 400


WRONG = {
    "signature missing": ({SIGNATURE: None}, f"{SIGNATURE}: missing"),
    "hash method missing": ({HASH: None}, f"{HASH}: missing"),
    "key type missing": ({KIND: None}, f"{KIND}: missing"),
    "certificate missing": ({CERTIFICATE: None}, f"{CERTIFICATE}: missing"),
    "all but one missing": ({HASH: None, KIND: None, CERTIFICATE: None}, f"{HASH}, {KIND}, {CERTIFICATE}: missing"),
    "unknown hash method": ({HASH: "MD5"}, f"{HASH}: 'MD5' is none that can be verified; allowed: SHA-224, SHA-256, SHA-384, SHA-512"),
    "unknown key type": ({KIND: "RSA"}, f"{KIND}: 'RSA' is none that can be verified; allowed: DSA, ECC_SECP384R1, ECC_SECP521R1, RSA-PSS"),
    "another key type": ({KIND: "DSA"}, f"{KIND}: DSA is not the type of the certificate's key"),
    "no signature": ({SIGNATURE: ""}, f"{SIGNATURE}: not the base64 of a signature"),
    "no base64": ({SIGNATURE: "a"}, f"{SIGNATURE}: not the base64 of a signature"),
    "no text": ({SIGNATURE: "\u20ac\u20ac"}, f"{SIGNATURE}: not the base64 of a signature"),
    "no id": ({CERTIFICATE: "../../v1/secrets"}, f"{CERTIFICATE}: '../../v1/secrets' is not the id of a certificate"),
    "unknown certificate": ({CERTIFICATE: UNUSED_ID}, f"{CERTIFICATE}: the key manager has no certificate under this id that you may read"),
    "bob's certificate": ({CERTIFICATE: "bob"}, f"{CERTIFICATE}: the key manager has no certificate under this id that you may read"),
    "expired": ({CERTIFICATE: "old"}, f"{CERTIFICATE}: the certificate is valid from "),
    "not yet valid": ({CERTIFICATE: "future"}, f"{CERTIFICATE}: the certificate is valid from "),
    "no certificate": ({CERTIFICATE: "text"}, "is not a certificate"),
    "nonsense": ({CERTIFICATE: "nonsense"}, f"{CERTIFICATE}: not an X.509 certificate with a usable key"),
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(barbican: KeyManager, cloud: Cloud, alice: dict[str, str]) -> dict[str, str]:
    """Secrets of which nothing good comes, by what they are."""
    pem, mine = partial(certificate, RSA), alice["X-Auth-Token"]
    return {
        "bob": barbican.keep(cloud.token("bob"), pem().public_bytes(Encoding.PEM)),
        "old": barbican.keep(mine, pem(days=(-9, -1)).public_bytes(Encoding.PEM)),
        "future": barbican.keep(mine, pem(days=(1, 9)).public_bytes(Encoding.PEM)),
        "text": barbican.keep(mine, pem().public_bytes(Encoding.PEM), "opaque"),
        "nonsense": barbican.keep(mine, b"nonsense"),
    }


@pytest.mark.parametrize("name", WRONG)
def test_what_can_never_be_verified_is_a_400_that_names_the_property(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]], kept: dict[str, str], name: str
) -> None:
    changes, said = WRONG[name]
    fields = {key: kept.get(value, value) for key, value in (signed(DATA) | changes).items() if value is not None}
    image = new(ikon, alice, **fields)
    before = files(ikon)

    answer = send(ikon, image, DATA, alice)

    assert (answer.status, said in answer.message) == (400, True), answer
    assert (state(ikon, image, alice), files(ikon)) == (("queued", None, None), before)
    assert send(ikon, image, DATA, alice, to="stage").status == 204
    answer = begin_import(ikon, image, alice)
    assert (answer.status, said in answer.message) == (400, True), answer
    assert (state(ikon, image, alice)[0], ikon.get(f"/v2/images/{image}/tasks", who=alice).json["tasks"]) == ("uploading", [])


@pytest.mark.parametrize("method", ["glance-direct", "web-download"])
def test_imported_data_has_to_be_what_was_signed(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]], source: str, method: str
) -> None:
    before = files(ikon)

    def imported(fields: dict[str, str]) -> tuple[str, dict[str, Any]]:
        image = new(ikon, alice, **fields)
        if method == "glance-direct":
            assert send(ikon, image, DATA, alice, to="stage").status == 204
        answer = begin_import(ikon, image, alice, name=method, **({"uri": source} if method == "web-download" else {}))
        assert answer.status == 202, answer
        return image, ended(ikon, image, alice)

    image, task = imported(signed(b"other"))
    assert (task["status"], f"Signature verification failed for image {image}: " in task["message"]) == ("failure", True)
    assert state(ikon, image, alice) == ("queued", None, None)
    eventually(lambda: files(ikon) == before, 60)
    cause = ikon.get(f"/ikon/v1/images/{image}/timeline", who=alice).json["now"]["cause"]
    assert "the data is not what was signed" in cause

    image, task = imported(signed(DATA))
    assert (task["status"], state(ikon, image, alice)[:2]) == ("success", ("active", len(DATA)))


def locate(ikon: Ikon, image: str, url: str, who: dict[str, str]) -> Answer:
    return ikon.post(f"/v2/images/{image}/locations", {"url": url}, who=who)


def test_data_at_a_location_has_to_be_what_was_signed(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]], source: str
) -> None:
    good, tampered = new(ikon, alice, **signed(DATA)), new(ikon, alice, **signed(b"other"))

    assert [locate(ikon, image, source, alice).status for image in (good, tampered)] == [202, 202]
    tasks = [ended(ikon, image, alice) for image in (good, tampered)]

    assert [task["status"] for task in tasks] == ["success", "failure"]
    assert f"Signature verification failed for image {tampered}: " in tasks[1]["message"]
    assert (state(ikon, good, alice)[:2], state(ikon, tampered, alice)) == (("active", len(DATA)), ("queued", None, None))
    assert ikon.get(f"/v2/images/{good}/file", who=alice).body == DATA
    assert ikon.get(f"/v2/images/{tampered}/file", who=alice).status == 204
    cause = ikon.get(f"/ikon/v1/images/{tampered}/timeline", who=alice).json["now"]["cause"]
    assert "the data is not what was signed" in cause


def test_a_location_that_was_refused_for_its_signature_can_be_named_again_with_the_right_one(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]], source: str
) -> None:
    image = new(ikon, alice, **signed(b"other"))
    assert (locate(ikon, image, source, alice).status, ended(ikon, image, alice)["status"]) == (202, "failure")
    assert ikon.patch(image, [{"op": "replace", "path": f"/{SIGNATURE}", "value": signed(DATA)[SIGNATURE]}], who=alice).status == 200

    assert locate(ikon, image, source, alice).status == 202
    assert (ended(ikon, image, alice)["status"], state(ikon, image, alice)[0]) == ("success", "active")


@pytest.mark.parametrize("name", ["all but one missing", "bob's certificate"])
def test_a_location_of_an_image_whose_signature_can_never_be_verified_is_a_400(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]], kept: dict[str, str], source: str, name: str
) -> None:
    changes, said = WRONG[name]
    image = new(ikon, alice, **{key: kept.get(value, value) for key, value in (signed(DATA) | changes).items() if value is not None})

    answer = locate(ikon, image, source, alice)

    assert (answer.status, said in answer.message) == (400, True), answer
    assert (state(ikon, image, alice), ikon.get(f"/v2/images/{image}/tasks", who=alice).json["tasks"]) == (("queued", None, None), [])


def test_an_image_that_has_data_takes_no_location_whatever_its_signature_is_by_now(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]], source: str
) -> None:
    image = new(ikon, alice, **signed(DATA))
    assert send(ikon, image, DATA, alice).status == 204
    assert ikon.patch(image, [{"op": "replace", "path": f"/{CERTIFICATE}", "value": UNUSED_ID}], who=alice).status == 200

    assert locate(ikon, image, source, alice).status == 409


def test_a_patch_gives_a_signed_image_no_location_before_its_data_was_looked_at_and_others_afterwards(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]], source: str
) -> None:
    def plus(url: str) -> dict[str, Any]:
        return {"op": "add", "path": "/locations/-", "value": {"url": url, "metadata": {}}}

    image, plain = new(ikon, alice, **signed(DATA)), new(ikon, alice)
    signing = [{"op": "add", "path": f"/{name}", "value": value} for name, value in signed(DATA).items()]

    for refused, operations in ((image, [plus(source)]), (plain, [*signing, plus(source)]), (plain, [plus(source), *signing])):
        answer = ikon.patch(refused, operations, who=alice)
        assert (answer.status, "add the location by a request of its own" in answer.message) == (400, True), answer
        record = ikon.get(f"/v2/images/{refused}", who=alice).json
        assert (record["status"], record["locations"], record["size"]) == ("queued", [], None)
    assert (locate(ikon, image, source, alice).status, ended(ikon, image, alice)["status"]) == (202, "success")
    assert ikon.patch(image, [plus(f"{source}?again")], who=alice).status == 200
    assert (ended(ikon, image, alice)["status"], state(ikon, image, alice)[0]) == ("success", "active")


def test_properties_that_are_changed_while_a_location_is_looked_at_prove_nothing(
    settings: dict[str, Any], alice: dict[str, str], signed: Callable[..., dict[str, str]], source: str, tmp_path: Path
) -> None:
    idle = Ikon(tmp_path, **settings | {"jobs": {"slots": 0}})
    with idle:
        images = [new(idle, alice, **fields) for fields in (signed(DATA), {})]
        for image in images:
            assert locate(idle, image, source, alice).status == 202
            change = [{"op": "add", "path": f"/{SIGNATURE}", "value": "c2lnbmF0dXJl"}]
            assert idle.patch(image, change, who=alice).status == 200
        idle.stop()
        idle.config.write_text(idle.config.read_text().replace("slots = 0", "slots = 4"))
        idle.start()

        tasks = [ended(idle, image, alice) for image in images]

        assert [(task["status"], SIGNATURE in task["message"]) for task in tasks] == [("failure", True)] * 2
        assert [state(idle, image, alice) for image in images] == [("queued", None, None)] * 2


def test_of_several_key_managers_the_one_of_the_service_s_own_region_is_asked(
    settings: dict[str, Any], cloud: Cloud, alice: dict[str, str], signed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    admin = {"X-Auth-Token": cloud.token("admin")}
    [service] = cloud.call("GET", "/services?type=key-manager", headers=admin)[0]["services"]
    cloud.call("POST", "/regions", {"region": {"id": "Aside"}}, admin)
    away = {"interface": "public", "url": "http://127.0.0.1:9", "service_id": service["id"], "region_id": "Aside"}
    endpoint = cloud.call("POST", "/endpoints", {"endpoint": away}, admin)[0]["endpoint"]["id"]
    try:
        for region, status in (("RegionOne", 204), ("Aside", 503)):
            with Ikon(tmp_path / region, **settings | {"keystone": settings["keystone"] | {"region": region}}) as server:
                answer = send(server, new(server, alice, **signed(DATA)), DATA, alice)
                assert answer.status == status, (region, answer)
    finally:
        cloud.call("DELETE", f"/endpoints/{endpoint}", headers=admin)


def test_a_posted_task_is_held_to_its_signature_and_one_that_can_never_be_verified_makes_no_image(
    ikon: Ikon, cloud: Cloud, barbican: KeyManager, signed: Callable[..., dict[str, str]], source: str
) -> None:
    admin = by(cloud.token("admin"))
    own = barbican.keep(admin["X-Auth-Token"], certificate(RSA).public_bytes(Encoding.PEM))

    def posted(name: str, fields: dict[str, str]) -> Answer:
        task = {"import_from": source, "import_from_format": "raw", "image_properties": {"name": name} | fields}
        return ikon.post("/v2/tasks", {"type": "import", "input": task}, who=admin)

    refused = posted("alice's certificate", signed(DATA))
    good, bad = (posted(name, signed(data) | {CERTIFICATE: own}) for name, data in (("good", DATA), ("bad", b"other")))

    assert (refused.status, CERTIFICATE in refused.message, ikon.ids("?name=alice's%20certificate", who=admin)) == (400, True, [])
    assert [ended(ikon, answer.json["image_id"], admin)["status"] for answer in (good, bad)] == ["success", "failure"]
    assert [state(ikon, answer.json["image_id"], admin)[0] for answer in (good, bad)] == ["active", "queued"]
    made = [answer.json["image_id"] for answer in (good, bad)]
    eventually(lambda: not [path for path in files(ikon) if "/staging/" in path and any(image in path for image in made)], 60)


def test_properties_that_are_changed_while_the_data_comes_prove_nothing(
    ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]]
) -> None:
    for fields in (signed(DATA), {}):
        image = new(ikon, alice, **fields)

        def blocks(image: str = image) -> Iterator[bytes]:
            yield DATA[:1_000_000]
            change = [{"op": "add", "path": f"/{SIGNATURE}", "value": "c2lnbmF0dXJl"}]
            eventually(lambda: state(ikon, image, alice)[0] == "saving", 60)
            assert ikon.patch(image, change, who=alice).status == 200
            yield DATA[1_000_000:]

        answer = send(ikon, image, blocks(), alice)

        assert (answer.status, SIGNATURE in answer.message) == (409, True), answer
        assert state(ikon, image, alice) == ("queued", None, None)


def test_properties_of_an_active_image_are_like_others(ikon: Ikon, alice: dict[str, str], signed: Callable[..., dict[str, str]]) -> None:
    image = new(ikon, alice, **signed(DATA))
    assert send(ikon, image, DATA, alice).status == 204

    assert ikon.patch(image, [{"op": "replace", "path": f"/{SIGNATURE}", "value": "x"}], who=alice).status == 200
    assert ikon.patch(image, [{"op": "remove", "path": f"/{SIGNATURE}"}], who=alice).status == 200
    assert state(ikon, image, alice)[0] == "active"


@pytest.mark.parametrize("how", ["frozen", "stopped"])
def test_without_the_key_manager_signed_images_wait_and_others_do_not(
    ikon: Ikon, alice: dict[str, str], barbican: KeyManager, signed: Callable[..., dict[str, str]], how: str
) -> None:
    image, plain, staged = new(ikon, alice, **signed(DATA)), new(ikon, alice), new(ikon, alice, **signed(DATA))
    assert send(ikon, staged, DATA, alice, to="stage").status == 204
    before = files(ikon)
    away, back = (barbican.server.freeze, barbican.server.thaw) if how == "frozen" else (barbican.server.stop, barbican.server.start)
    away()
    try:
        for answer in (send(ikon, image, DATA, alice), begin_import(ikon, staged, alice)):
            assert (answer.status, answer.headers["Retry-After"], "key manager" in answer.message) == (503, "5", True), answer
        assert (state(ikon, image, alice), state(ikon, staged, alice)[0], files(ikon)) == (("queued", None, None), "uploading", before)
        assert send(ikon, plain, DATA, alice).status == 204
        assert "key manager cannot be asked" in ikon.said()
    finally:
        back()
    assert send(ikon, image, DATA, alice).status == 204
    assert begin_import(ikon, staged, alice).status == 202
    assert ended(ikon, staged, alice)["status"] == "success"


def test_a_job_needs_neither_the_key_manager_nor_a_token(
    settings: dict[str, Any], alice: dict[str, str], barbican: KeyManager, signed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    idle = Ikon(tmp_path, **settings | {"jobs": {"slots": 0}})
    with idle:
        images = [new(idle, alice, **signed(data)) for data in (DATA, b"other")]
        for image in images:
            assert send(idle, image, DATA, alice, to="stage").status == 204
            assert begin_import(idle, image, alice).status == 202
        idle.stop()
        barbican.server.stop()
        try:
            idle.config.write_text(idle.config.read_text().replace("slots = 0", "slots = 4"))
            idle.start()
            assert [ended(idle, image, alice)["status"] for image in images] == ["success", "failure"]
            assert [state(idle, image, alice)[0] for image in images] == ["active", "queued"]
        finally:
            barbican.server.start()
        kept = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("ikon.db*"))
        assert alice["X-Auth-Token"].encode() not in kept


def test_a_signed_image_is_stored_as_it_came_or_not_at_all(
    settings: dict[str, Any], alice: dict[str, str], signed: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    qcow2 = made.qcow2()
    cases = {
        "already right": (DATA, "raw", "success", ""),
        "packed": (gzip.compress(DATA), "raw", "failure", "A signed image is not unpacked"),
        "to be converted": (qcow2, "qcow2", "failure", "A signed image is not converted from qcow2 to raw"),
    }
    with Ikon(tmp_path, **settings | {"conversion": {"output_format": "raw"}, "imports": {"decompress": True}}) as server:
        for data, form, status, said in cases.values():
            image = new(server, alice, disk_format=form, **signed(data))
            assert send(server, image, data, alice, to="stage").status == 204
            assert begin_import(server, image, alice).status == 202
            task = ended(server, image, alice)
            assert (task["status"], said in task["message"]) == (status, True), task
            assert state(server, image, alice)[0] == {"success": "active", "failure": "queued"}[status]


def test_without_tokens_the_properties_are_only_text(shared: Ikon) -> None:
    shared.active(DATA, **{SIGNATURE: "c2ln", HASH: "SHA-256", KIND: "RSA-PSS", CERTIFICATE: UNUSED_ID})


def at_a_terminal(command: list[Any], typed: bytes, env: dict[str, str]) -> tuple[int, str]:
    """Run a command whose user types the same again and again. Returns its exit code and what it said."""
    keyboard, terminal = pty.openpty()
    try:
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, env=env, stdin=terminal, stdout=said, stderr=said, start_new_session=True)
            end = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < end:
                os.write(keyboard, typed)
                time.sleep(0.1)
            process.kill()
            said.seek(0)
            return process.wait(), said.read().decode(errors="replace")
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_the_openstack_client_signs_and_a_changed_file_is_refused(
    ikon: Ikon, cloud: Cloud, barbican: KeyManager, alice: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "disk.raw").write_bytes(DATA)
    uuid = barbican.keep(alice["X-Auth-Token"], certificate(RSA).public_bytes(Encoding.PEM))
    auth = {"auth_url": cloud.url, "username": "alice", "password": SECRET, "project_name": PROJECTS["alice"]}
    auth |= {"user_domain_id": "default", "project_domain_id": "default"}
    clouds = {"clouds": {"alice": {"auth": auth, "image_endpoint_override": f"http://127.0.0.1:{ikon.port}/"}}}
    (tmp_path / "clouds.yaml").write_text(json.dumps(clouds))
    env = os.environ | {"OS_CLIENT_CONFIG_FILE": str(tmp_path / "clouds.yaml"), "OS_CLOUD": "alice", "HOME": str(tmp_path)}
    words = ["create", "--disk-format", "raw", "--container-format", "bare", "--file", tmp_path / "disk.raw"]
    words += ["--sign-key-path", tmp_path / "key.pem", "--sign-cert-id", uuid, "-f", "json", "signed"]

    code, said = at_a_terminal([OPENSTACK, "image", *words], b"\n", env)  # it asks for the key's password

    assert code == 0, said
    [image] = ikon.browse("?name=signed", who=alice).json["images"]
    assert (image["status"], image["size"], image[CERTIFICATE]) == ("active", len(DATA), uuid)
    assert base64.b64encode(base64.b64decode(image[SIGNATURE], validate=True)).decode() == image[SIGNATURE]
    fields = {name: image[name] for name in (SIGNATURE, HASH, KIND, CERTIFICATE)}
    again = new(ikon, alice, **fields)
    assert [send(ikon, again, data, alice).status for data in (DATA[:-1] + b"x", DATA)] == [400, 204]
