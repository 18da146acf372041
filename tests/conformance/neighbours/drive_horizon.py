"""Drives what Horizon has for talking to the image service, openstack_dashboard.api.glance, as its pages do."""

import logging
import os
import urllib.request
import warnings
from typing import Any

from drive import Drive, public, refused, until

warnings.simplefilter("ignore")
drive = Drive("horizon")
os.environ["DJANGO_SETTINGS_MODULE"] = "openstack_dashboard.settings"

import django  # noqa: E402

logging.disable(logging.CRITICAL)
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.sessions.backends.signed_cookies import SessionStore  # noqa: E402
from django.core.files.uploadedfile import InMemoryUploadedFile, SimpleUploadedFile, TemporaryUploadedFile  # noqa: E402
from django.http import HttpRequest  # noqa: E402
from glanceclient import exc  # noqa: E402
from openstack_auth import user  # noqa: E402
from openstack_dashboard.api import glance  # noqa: E402

DATA = bytes(range(256)) * 4096


def visit(name: str) -> HttpRequest:
    """A request of one of the users, who has logged in."""
    request = HttpRequest()
    request.session = SessionStore()
    request.user = user.create_user_from_token(request, user.Token(drive.person(name)["access"]), drive.given["auth_url"], "RegionOne")
    return request


alice, bob, admin = visit("alice"), visit("bob"), visit("admin")


def new(**fields: Any) -> glance.Image:
    return glance.image_create(alice, **glance.create_image_metadata({"name": "image", "disk_format": "raw"}) | fields)


def is_active(image: glance.Image) -> bool:
    return str(glance.image_get(alice, image.id).status) == "active"


with drive.call(glance.glanceclient, "a client of the endpoint in the catalogue"):
    assert glance.glanceclient(alice).images.get_stores_info()["stores"]
with drive.call(glance.get_version, "the version of the API"):
    assert glance.get_version() == 2
with drive.call(glance.get_image_schemas, "the schema of images"):
    assert glance.get_image_schemas(alice)["name"] == "image"
with drive.call(glance.get_image_formats, "the formats that both know"):
    assert {"raw", "qcow2", "vmdk", "iso"} <= {form for form, name in glance.get_image_formats(alice)}
with drive.call(glance.get_image_upload_mode, "how files are uploaded"):
    assert glance.get_image_upload_mode() == "legacy"
with drive.call(glance.create_image_metadata, "the fields of a form"):
    form = {"name": "form", "disk_format": "vhd", "visibility": "shared", "architecture": "x86_64", "min_ram": 64, "hw_disk_bus": "virtio"}
    made = glance.image_create(alice, **glance.create_image_metadata(form))
    assert (made.container_format, made.min_ram, made.to_dict(show_ext_attrs=True)["properties"]["hw_disk_bus"]) == ("ovf", 64, "virtio")

with drive.call(glance.image_create, "with a file that was uploaded into memory"):
    kept = new(data=SimpleUploadedFile("disk", DATA))
    until(lambda: is_active(kept))
    copied = new(
        data=InMemoryUploadedFile(SimpleUploadedFile("disk", DATA).file, None, "disk", "application/octet-stream", len(DATA), None)
    )
    until(lambda: is_active(copied))
with drive.call(glance.image_create, "with a file that was uploaded onto disk"):
    spooled = TemporaryUploadedFile("disk", "application/octet-stream", len(DATA), None)
    spooled.write(DATA)
    spooled.seek(0)
    large = new(data=spooled)
    until(lambda: is_active(large))
with drive.call(glance.image_create, "with the data to be sent by the browser"):
    outside = new(data="disk")
    sent = {"X-Auth-Token": outside.token_id, "Content-Type": "application/octet-stream", "Origin": drive.given["origin"]}
    put = urllib.request.Request(outside.upload_url, DATA, sent, method="PUT")
    with urllib.request.urlopen(put) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == drive.given["origin"]
    assert is_active(outside)
with drive.call(glance.ExternallyUploadedImage.to_dict, "with where the browser sends the data, and its token"):
    assert outside.to_dict()["upload_url"] == f"{drive.given['endpoint']}/v2/images/{outside.id}/file"
with drive.call(glance.image_create, "with a location"):
    there = new(location=drive.given["location"])
    until(lambda: is_active(there))

with drive.call(glance.image_get, "a record; those of others are not found"):
    image = glance.image_get(alice, kept.id)
    assert (image.size, image.is_public) == (len(DATA), False)
    with refused(exc.HTTPNotFound):
        glance.image_get(bob, kept.id)
with drive.call(glance.Image.to_dict, "as the pages show it"):
    assert glance.image_get(alice, kept.id).to_dict()["name"] == "image"
with drive.call(glance.Image.property_visible, "what is shown of it"):
    assert image.property_visible("hw_disk_bus") and not image.property_visible("name")
with drive.call(glance.image_list_detailed, "lists, by visibility and owner, and by size"):
    everything, _, _ = glance.image_list_detailed(alice, filters={"is_public": False, "property-owner_id": alice.user.project_id})
    assert [each.visibility for each in everything] == ["private"] * len(everything) and len(everything) > 3
    by_size, _, _ = glance.image_list_detailed(alice, sort_key="size", sort_dir="asc", filters={"status": "active"})
    assert [each.size for each in by_size] == sorted(each.size for each in by_size)
with drive.call(glance.image_list_detailed, "pages to and fro"):
    settings.API_RESULT_PAGE_SIZE = 2
    first, more, before = glance.image_list_detailed(alice, paginate=True)
    second, _, back = glance.image_list_detailed(alice, paginate=True, marker=first[-1].id)
    again, _, _ = glance.image_list_detailed(alice, paginate=True, marker=second[0].id, reversed_order=True, sort_dir="desc")
    assert (len(first), more, before, back) == (2, True, False, True)
    assert {each.id for each in again} == {each.id for each in first}

with drive.call(glance.image_update, "names, sharing and protection"):
    changed = glance.image_update(alice, kept.id, name="named", visibility="shared", protected=True, remove_props=None)
    assert (changed.name, changed.visibility, changed.protected) == ("named", "shared", True)
    glance.image_update(alice, kept.id, protected=False)
with drive.call(glance.image_update_properties, "some are set, others removed"):
    glance.image_update_properties(alice, kept.id, None, os_distro="debian", colour="red")
    glance.image_update_properties(alice, kept.id, ["colour"], os_distro="alpine")
    left = glance.image_get(alice, kept.id).to_dict(show_ext_attrs=True)["properties"]
    assert left["os_distro"] == "alpine" and "colour" not in left
with drive.call(glance.image_deactivate, "an image is not to be had for a while"):
    glance.image_deactivate(admin, kept.id)
    assert str(glance.image_get(alice, kept.id).status) == "deactivated"
with drive.call(glance.image_reactivate, "and is again"):
    glance.image_reactivate(admin, kept.id)
    assert is_active(kept)
with drive.call(glance.image_delete, "an image, which is gone then"):
    for image in (kept, made, outside):
        glance.image_delete(alice, image.id)
    with refused(exc.HTTPNotFound):
        glance.image_get(alice, kept.id)

NAME, KIND = "OS::Ikon", {"name": "OS::Glance::Image", "properties_target": "image"}
with drive.call(glance.metadefs_namespace_create, "a namespace"):
    glance.metadefs_namespace_create(admin, {"namespace": NAME, "display_name": "Ikon", "visibility": "public", "protected": False})
with drive.call(glance.metadefs_namespace_get, "a namespace"):
    assert glance.metadefs_namespace_get(alice, NAME, wrap=True).public
with drive.call(glance.metadefs_namespace_update, "a namespace"):
    assert glance.metadefs_namespace_update(admin, NAME, description="changed")["description"] == "changed"
with drive.call(glance.metadefs_namespace_add_resource_type, "what a namespace is for"):
    glance.metadefs_namespace_add_resource_type(admin, NAME, KIND)
with drive.call(glance.metadefs_namespace_resource_types, "what a namespace is for"):
    assert [kind["name"] for kind in glance.metadefs_namespace_resource_types(alice, NAME)] == [KIND["name"]]
with drive.call(glance.metadefs_resource_types_list, "what namespaces may be for"):
    assert KIND["name"] in [kind["name"] for kind in glance.metadefs_resource_types_list(alice)]
with drive.call(glance.metadefs_namespace_list, "namespaces, page by page"):
    found, _, _ = glance.metadefs_namespace_list(
        alice, filters={"resource_types": [KIND["name"]], "properties_target": "image"}, paginate=True
    )
    assert found
with drive.call(glance.metadefs_namespace_full_list, "namespaces of a type, with what is in them"):
    assert glance.metadefs_namespace_full_list(alice, KIND["name"])[0]
with drive.call(glance.filter_properties_target, "namespaces by what their properties are of"):
    each = list(glance.glanceclient(alice).metadefs_namespace.list(filters={"resource_types": [KIND["name"]]}))
    assert list(glance.filter_properties_target(iter(each), [KIND["name"]], "image"))
with drive.call(glance.metadefs_namespace_remove_resource_type, "what a namespace is for"):
    glance.metadefs_namespace_remove_resource_type(admin, NAME, KIND["name"])
with drive.call(glance.metadefs_namespace_delete, "a namespace"):
    glance.metadefs_namespace_delete(admin, NAME)

drive.end(public(glance, glance.Image, glance.ExternallyUploadedImage), {"image_delete_properties": "no page calls it"})
