"""Drives what Nova has for talking to the image service, nova.image.glance, as compute and API nodes do."""

import contextlib
import io
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cursive.exception import SignatureVerificationError
from drive import Drive, public, refused, until
from drive_keys import signed

drive = Drive("nova")
where = Path(tempfile.mkdtemp())
settings = where / "nova.conf"
settings.write_text(f"""
[DEFAULT]
state_path = {where}
[glance]
region_name = RegionOne
num_retries = 1
[key_manager]
backend = drive_keys.Keys
[service_user]
send_service_user_token = true
auth_type = password
auth_url = {drive.given["auth_url"]}
username = nova
password = {drive.given["password"]}
project_name = service
user_domain_id = default
project_domain_id = default
""")

from nova import config, context, exception, objects  # noqa: E402
from nova.image import glance  # noqa: E402

config.parse_args(["nova", "--config-file", str(settings)], configure_db=False, init_rpc=False)
objects.register_all()
logging.disable(logging.CRITICAL)
BARE = {"disk_format": "raw", "container_format": "bare"}
DATA = bytes(range(256)) * 5000


def asks(name: str) -> context.RequestContext:
    """A request of one of the users, as the API's middleware makes it."""
    person = drive.person(name)
    return context.RequestContext(
        user_id=person["user"],
        project_id=person["project"],
        auth_token=person["token"],
        service_catalog=person["catalog"],
        roles=["member"],
    )


API, SERVICE = glance.API, glance.GlanceImageServiceV2
api, alice, bob, admin = API(), asks("alice"), asks("bob"), asks("admin")
service = glance.get_default_image_service()


def new(ctx: context.RequestContext = alice, data: bytes | None = DATA, **fields: Any) -> dict[str, Any]:
    return dict(api.create(ctx, BARE | {"name": "image", "properties": {}} | fields, data=data and io.BytesIO(data)))


with drive.call(glance.get_api_servers, "the endpoint is found by the catalogue and by the versions that it offers"):
    assert next(glance.get_api_servers(alice)).rstrip("/") == drive.given["endpoint"]
with drive.call(glance.generate_glance_url, "the same for a URL"):
    assert glance.generate_glance_url(alice).rstrip("/") == drive.given["endpoint"]
with drive.call(API.generate_image_url, "an image's URL"):
    assert API.generate_image_url("x", alice).endswith("/images/x")
with drive.call(glance.get_remote_image_service, "a service for an id, and for a URL"):
    assert glance.get_remote_image_service(alice, "x")[1] == "x"
    assert glance.get_remote_image_service(alice, f"{drive.given['endpoint']}/v2/images/y")[1] == "y"
with drive.call(glance.get_default_image_service, "a service for ids"):
    assert isinstance(glance.get_default_image_service(), SERVICE)

with drive.call(API.create, "a snapshot: a record first, its data by an update, as the libvirt driver does"):
    snapshot = new(data=None, name="snapshot", properties={"image_type": "snapshot", "user_id": alice.user_id, "base_image_ref": "x"})
    assert snapshot["status"] == "queued"
    sent = {"name": "snapshot", "status": "active", "properties": {"image_state": "available", "owner_id": alice.project_id}} | BARE
    updated = api.update(alice, snapshot["id"], sent, data=io.BytesIO(DATA), purge_props=False)
    assert (updated["status"], updated["size"], updated["properties"]["image_type"]) == ("active", len(DATA), "snapshot")
with drive.call(SERVICE.create, "an image with its data at once"):
    made = new(properties={"hw_disk_bus": "virtio"})
    assert (made["status"], made["size"], made["properties"]["hw_disk_bus"]) == ("active", len(DATA), "virtio")
with drive.call(SERVICE.create, "a snapshot of a volume: no data, size 0, and active"):
    empty = service.create(alice, {"name": "of a volume", "size": 0, "properties": {"bdm_v2": "True", "block_device_mapping": []}})
    assert (empty["status"], empty["size"], empty["properties"]["block_device_mapping"]) == ("active", 0, [])
with drive.call(SERVICE.create, "an image that is shared with the project of the instance"):
    shared = new(admin, visibility="shared", properties={"instance_owner": bob.project_id})
    assert api.get(bob, shared["id"])["id"] == shared["id"]
with drive.call(SERVICE.create, "a disk_format that the schema allows, where none is known"):
    assert service._get_image_create_disk_format_default(alice) == "qcow2"
with drive.call(SERVICE.create, "an image at a location, as of a snapshot in the store itself"):
    there = service.create(alice, BARE | {"name": "there", "location": drive.given["location"], "properties": {}})
    until(lambda: api.get(alice, there["id"])["checksum"])
    assert b"".join(api.download(alice, there["id"])) == Path(drive.given["file"]).read_bytes()
with drive.call(SERVICE.create, "a location that may not be is a bad request"), refused(exception.Invalid):
    service.create(alice, BARE | {"name": "nowhere", "location": "gopher://x/y", "properties": {}})

with drive.call(API.get, "a record, by id and by URL"):
    for ref in (made["id"], f"{drive.given['endpoint']}/v2/images/{made['id']}"):
        assert api.get(alice, ref)["checksum"] == made["checksum"]
with drive.call(SERVICE.show, "the locations of an image's data"):
    places = service.show(alice, made["id"], include_locations=True)["locations"]
    assert any(place["url"].startswith("file://") for place in places)
with drive.call(SERVICE.show, "an image of others, and one that does not exist, are not found"):
    for ctx, image in ((bob, made["id"]), (alice, "6f1c2d8e-3b57-4a90-8c1e-5d2f7a9b4c30")):
        with refused(exception.ImageNotFound):
            service.show(ctx, image)
with drive.call(API.get_all, "lists by property, by time, by visibility, and page by page"):
    assert [image["id"] for image in api.get_all(alice, filters={"property-hw_disk_bus": "virtio"})] == [made["id"]]
    assert made["id"] in [
        image["id"] for image in api.get_all(alice, filters={"changes-since": "2020-01-01T00:00:00Z", "status": "active"})
    ]
    assert api.get_all(alice, filters={"is_public": "True", "name": "image"}) == []
    assert len(api.get_all(alice, limit=2, page_size=1, sort_key="name", sort_dir="asc")) == 2
with drive.call(SERVICE.detail, "a list goes on after a marker"):
    pages = service.detail(alice, sort_key="created_at", sort_dir="desc")
    assert [image["id"] for image in service.detail(alice, marker=pages[0]["id"])] == [image["id"] for image in pages[1:]]

with drive.call(API.update, "properties, the others going"):
    changed = api.update(alice, made["id"], {"name": "named", "min_ram": 64, "properties": {"os_distro": "debian"}}, purge_props=True)
    assert (changed["name"], changed["min_ram"], changed["properties"]["os_distro"]) == ("named", 64, "debian")
    assert "hw_disk_bus" not in changed["properties"]
with drive.call(SERVICE.update, "an image of others is not found"), refused(exception.ImageNotFound):
    service.update(bob, made["id"], {"name": "mine", "properties": {}}, purge_props=False)

with drive.call(API.download, "to a path, to a file, and as blocks"):
    api.download(alice, made["id"], dest_path=str(where / "path"))
    assert (where / "path").read_bytes() == DATA
    into = io.BytesIO()
    api.download(alice, made["id"], data=into)
    assert into.getvalue() == DATA == b"".join(api.download(alice, made["id"]))
with drive.call(SERVICE.download, "past the service, from its location, and by the service where that fails"):
    copied = []
    service._download_handlers["file"] = lambda ctx, url, path, metadata: copied.append(shutil.copy(url.path, path))
    service.download(alice, made["id"], dst_path=str(where / "copied"))
    service._download_handlers["file"] = lambda ctx, url, path, metadata: Path("/nowhere").read_bytes()
    service.download(alice, made["id"], dst_path=str(where / "fallen back"))
    service._download_handlers.clear()
    assert (where / "copied").read_bytes() == DATA == (where / "fallen back").read_bytes() and len(copied) == 1
with drive.call(SERVICE.download, "compared with its signature: right, wrong, and without one"):
    config.CONF.set_override("verify_glance_signatures", True, "glance")
    for properties, problem in ((signed(DATA), None), (signed(b"other"), InvalidSignature), ({}, SignatureVerificationError)):
        image = new()
        api.update(alice, image["id"], {"properties": properties}, purge_props=False)
        with refused(problem) if problem else contextlib.nullcontext():
            service.download(alice, image["id"], dst_path=str(where / "signed"))
            assert (where / "signed").read_bytes() == DATA
    config.CONF.set_override("verify_glance_signatures", False, "glance")
with drive.call(SERVICE.download, "an image without data is not acceptable"), refused(exception.ImageUnacceptable):
    service.download(alice, new(data=None)["id"], dst_path=str(where / "none"))

with drive.call(API.copy_image_to_store, "into another store"):
    api.copy_image_to_store(admin, made["id"], "slow")
    until(lambda: "slow" in api.get(alice, made["id"])["stores"].split(","))
with drive.call(SERVICE.image_import_copy, "refused where it is already, where there is none, to who may not, and of what has no data"):
    for ctx, image, problem in (
        (admin, made["id"], exception.ImageBadRequest),
        (admin, "6f1c2d8e-3b57-4a90-8c1e-5d2f7a9b4c30", exception.ImageNotFound),
        (alice, made["id"], exception.ImageNotAuthorized),
        (admin, new(data=None)["id"], exception.ImageImportImpossible),
    ):
        with refused(problem):
            service.image_import_copy(ctx, image, ["slow"])

with drive.call(SERVICE.delete, "refused of a protected image, and of one that is not there"):
    api.update(alice, made["id"], {"protected": True}, purge_props=False)
    with refused(exception.ImageNotAuthorized):
        service.delete(alice, made["id"])
    with refused(exception.ImageNotFound):
        service.delete(alice, "6f1c2d8e-3b57-4a90-8c1e-5d2f7a9b4c30")
    api.update(alice, made["id"], {"protected": False}, purge_props=False)
with drive.call(API.delete, "an image, which is gone then"):
    for image in (made, snapshot, empty, there):
        assert api.delete(alice, image["id"])
    with refused(exception.ImageNotFound):
        api.get(alice, made["id"])

wrapper = glance.GlanceClientWrapper
with drive.call(wrapper.call, "a service that is away is asked again, and then said to be"), refused(exception.GlanceConnectionFailed):
    glance.GlanceImageServiceV2(wrapper(context=alice, endpoint="http://127.0.0.1:9")).show(alice, "x")

drive.end(public(glance, API, SERVICE, wrapper), {"GlanceImageServiceV2.rbd_download": "speaks to Ceph, not to the image service"})
