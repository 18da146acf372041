"""One image's whole life, by each client."""

import json
import re
from typing import Any

from chapters.story import CLIENTS, Journey, StepError, expect, same


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
