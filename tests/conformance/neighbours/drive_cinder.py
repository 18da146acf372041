"""Drives what Cinder has for talking to the image service, cinder.image.glance and image_utils, as volume nodes do."""

import contextlib
import inspect
import io
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from drive import Drive, public, refused, until
from drive_keys import signed

drive = Drive("cinder")
where = Path(tempfile.mkdtemp())
account = f"""
auth_type = password
auth_url = {drive.given["auth_url"]}
username = cinder
password = {drive.given["password"]}
project_name = service
user_domain_id = default
project_domain_id = default
"""
settings = where / "cinder.conf"
settings.write_text(f"""
[DEFAULT]
state_path = {where}
image_conversion_dir = {where}
glance_catalog_info = image:image:publicURL
glance_num_retries = 1
allow_compression_on_image_upload = true
[glance]
region_name = RegionOne
{account}
[key_manager]
backend = drive_keys.Keys
[cinder_sys_admin]
helper_command = {"" if os.geteuid() == 0 else "sudo -n "}{sys.prefix}/bin/privsep-helper --config-file {settings}
[service_user]
send_service_user_token = true
{account}
""")

from cinder import context, exception, objects, utils  # noqa: E402
from cinder.common import config  # noqa: E402

from cinder.image import image_utils  # isort: skip  # noqa: E402
from cinder.image import glance  # isort: skip  # noqa: E402  # image_utils comes first, as in the volume manager

objects.register_all()
config.CONF(["--config-file", str(settings)], project="cinder")
logging.disable(logging.CRITICAL)
utils.get_root_helper = lambda: "env"  # commands run as whoever runs this, and not through sudo
BARE = {"disk_format": "raw", "container_format": "bare"}
DATA = bytes(range(256)) * 4096
MISSING = "6f1c2d8e-3b57-4a90-8c1e-5d2f7a9b4c30"


def asks(name: str) -> context.RequestContext:
    """A request of one of the users, as the API's middleware makes it."""
    person = drive.person(name)
    return context.RequestContext(person["user"], person["project"], auth_token=person["token"], service_catalog=person["catalog"])


SERVICE, IMAGES = glance.GlanceImageService, image_utils.TemporaryImages
alice, bob, admin = asks("alice"), asks("bob"), asks("admin")
service = glance.get_default_image_service()


def new(data: bytes | None = DATA, ctx: context.RequestContext = alice, **fields: Any) -> dict[str, Any]:
    """An image, with data as Cinder sends it: in a request of its own."""
    made = service.create(ctx, BARE | {"name": "image", "properties": {}} | fields)
    return service.update(ctx, made["id"], {}, io.BytesIO(data)) if data is not None else made


def path(name: str) -> str:
    return str(where / name)


with drive.call(glance.get_api_servers, "the endpoint is found in the catalogue"):
    assert next(glance.get_api_servers(alice)) == (drive.given["endpoint"].removeprefix("http://"), False)
with drive.call(glance.get_default_image_service, "a service for ids"):
    assert isinstance(glance.get_default_image_service(), SERVICE)
with drive.call(glance.get_remote_image_service, "a service for an id, and for a URL"):
    assert glance.get_remote_image_service(alice, "x")[1] == "x"
    assert glance.get_remote_image_service(alice, f"{drive.given['endpoint']}/v2/images/y")[1] == "y"
with drive.call(SERVICE.create, "the record of an image that a volume is to become"):
    made = service.create(alice, BARE | {"name": "of a volume", "properties": {"os_distro": "debian", "min": "1"}, "min_disk": 1})
    assert (made["status"], made["properties"]["os_distro"]) == ("queued", "debian")
with drive.call(SERVICE.update, "the volume's data, into a store, with the image that the volume came from"):
    filled = service.update(alice, made["id"], {}, io.BytesIO(DATA), store_id="slow", base_image_ref=MISSING)
    assert (filled["status"], filled["size"], service.show(alice, made["id"])["properties"].get("stores", "slow")) == (
        "active",
        len(DATA),
        "slow",
    )
with drive.call(SERVICE.update, "properties, the others going"):
    changed = service.update(alice, made["id"], {"name": "named", "properties": {"os_distro": "alpine"}})
    assert (changed["name"], changed["properties"]["os_distro"], "min" in changed["properties"]) == ("named", "alpine", False)
with drive.call(SERVICE.update, "an image of others is not found"), refused(exception.ImageNotFound):
    service.update(bob, made["id"], {"name": "mine", "properties": {}}, purge_props=False)
with drive.call(SERVICE.show, "a record; those of others and missing ones are not found"):
    assert service.show(alice, made["id"])["checksum"] == filled["checksum"]
    for ctx, image in ((bob, made["id"]), (alice, MISSING)):
        with refused(exception.ImageNotFound):
            service.show(ctx, image)
with drive.call(SERVICE.detail, "lists, by name, by property, and page by page"):
    assert [image["id"] for image in service.detail(alice, filters={"name": "named", "os_distro": "alpine"})] == [made["id"]]
    other = new()
    assert [image["id"] for image in service.detail(alice, marker=other["id"], limit=1, sort_key="created_at", sort_dir="desc")] == [
        made["id"]
    ]
with drive.call(SERVICE.list_members, "whom an image is shared with"):
    assert list(service.list_members(alice, made["id"])) == []
with drive.call(SERVICE.get_stores, "the stores"):
    assert {"cheap", "fast", "slow"} <= {store["id"] for store in service.get_stores(alice)["stores"]}
with drive.call(image_utils.validate_stores_id, "a store is there, read-only, or not there"):
    image_utils.validate_stores_id(alice, "slow")
    for store, problem in (("web", exception.GlanceStoreReadOnly), ("nowhere", exception.GlanceStoreNotFound)):
        with refused(problem):
            image_utils.validate_stores_id(alice, store)

with drive.call(SERVICE.get_location, "where an image's data is, in the service's own name"):
    direct, places = service.get_location(alice, made["id"])
    assert direct is None and [place["url"].partition(":")[0] for place in places] == ["file"], (direct, places)
with drive.call(SERVICE.add_location, "an image of data that is there already, in the service's own name"):
    there = service.create(alice, BARE | {"name": "there", "properties": {}})
    service.add_location(alice, there["id"], drive.given["location"], {})
    until(lambda: service.show(alice, there["id"])["checksum"])
    assert b"".join(service.download(alice, there["id"])) == Path(drive.given["file"]).read_bytes()
with drive.call(SERVICE.download, "as blocks, into a file, and past the service from its location"):
    assert b"".join(service.download(alice, made["id"])) == DATA
    for schemes in ([], ["file"]):
        config.CONF.set_override("allowed_direct_url_schemes", schemes)
        into = io.BytesIO()
        service.download(alice, made["id"], into)
        assert into.getvalue() == DATA
    config.CONF.set_override("allowed_direct_url_schemes", [])

with drive.call(image_utils.fetch, "into a file"):
    image_utils.fetch(alice, service, made["id"], path("fetched"), None, None)
    assert Path(path("fetched")).read_bytes() == DATA
with drive.call(image_utils.fetch_verify_image, "and what it is, looked at"):
    image_utils.fetch_verify_image(alice, service, made["id"], path("verified"))
with drive.call(image_utils.verify_glance_image_signature, "an image without a signature is not verified, with a half of one refused"):
    assert image_utils.verify_glance_image_signature(alice, service, made["id"], path("verified")) is False
    half = new(None, properties={"img_signature_key_type": "RSA-PSS"})
    with refused(exception.InvalidSignatureImage):
        image_utils.verify_glance_image_signature(alice, service, half["id"], path("verified"))
with drive.call(image_utils.verify_glance_image_signature, "an image is compared with its signature: right and wrong"):
    for data, right in ((DATA, True), (b"other", False)):
        image = new()
        service.update(alice, image["id"], {"properties": signed(data)}, purge_props=False)
        image_utils.fetch(alice, service, image["id"], path("signed"), None, None)
        with contextlib.nullcontext() if right else refused(exception.ImageSignatureVerificationException):
            assert image_utils.verify_glance_image_signature(alice, service, image["id"], path("signed"))
with drive.call(image_utils.fetch_to_raw, "a qcow2 image onto a volume"):
    qcow2 = new(Path(drive.given["qcow2"]).read_bytes(), disk_format="qcow2")
    image_utils.fetch_to_raw(alice, service, qcow2["id"], path("volume"), "1M", size=1, run_as_root=False)
    assert Path(path("volume")).read_bytes() == Path(drive.given["file"]).read_bytes()
with drive.call(image_utils.fetch_to_vhd, "a raw image onto a volume of VHD"):
    image_utils.fetch_to_vhd(alice, service, made["id"], path("vhd"), "1M", run_as_root=False)
    assert Path(path("vhd")).read_bytes()[-512:-504] == b"conectix"
with drive.call(image_utils.fetch_to_volume_format, "an image that is packed"):
    packed = new(Path(drive.given["gzip"]).read_bytes(), container_format="compressed")
    image_utils.fetch_to_volume_format(alice, service, packed["id"], path("unpacked"), "raw", "1M", run_as_root=False)
    assert Path(path("unpacked")).read_bytes() == Path(drive.given["file"]).read_bytes()
with drive.call(image_utils.upload_volume, "a volume, as it is, converted, and packed"):
    for form, container in (("raw", "bare"), ("qcow2", "bare"), ("raw", "compressed")):
        image = new(None, disk_format=form, container_format=container)
        image_utils.upload_volume(alice, service, image, path("volume"), run_as_root=False, store_id="fast")
        assert service.show(alice, image["id"])["status"] == "active"
with drive.call(IMAGES.for_image_service, "what was fetched is kept for a while"):
    kept = IMAGES.for_image_service(service)
with drive.call(IMAGES.fetch, "an image for as long as it is worked on"), IMAGES.fetch(service, alice, made["id"]) as temporary:
    assert Path(temporary).read_bytes() == DATA
    with drive.call(IMAGES.get, "and once only"):
        assert kept.get(alice, made["id"]) == temporary

with drive.call(SERVICE.delete, "an image, which is gone then"):
    assert service.delete(alice, made["id"])
    for deed in (service.show, service.delete):
        with refused(exception.ImageNotFound):
            deed(alice, made["id"])
wrapper = glance.GlanceClientWrapper
with drive.call(wrapper.call, "a service that is away is asked again, and then said to be"), refused(exception.GlanceConnectionFailed):
    SERVICE(wrapper(alice, "127.0.0.1:9")).show(alice, "x")

asking = [
    name
    for name, value in vars(image_utils).items()
    if inspect.isfunction(value) and "image_service" in inspect.signature(value).parameters
]
drive.end([*public(glance, SERVICE, wrapper, IMAGES), *asking, "validate_stores_id"], {})
