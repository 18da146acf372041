"""OVA: every member is looked at, and nothing is believed that could lead out of the archive."""

import gzip
import tarfile

import pytest

from tests.unit.formats.made import (
    DESCRIPTOR,
    OVF,
    SIZE,
    inspect,
    iso,
    ova,
    put,
    qcow2,
    refusal,
    streamed_vmdk,
    tar,
    vhd_dynamic,
    vhd_fixed,
    vmdk,
)

BACKED = put(qcow2(), 8, ">QI", 512, 4)
DISK = ("disk.vmdk", vmdk())


def info(name: str, kind: bytes, **more: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in more.items():
        setattr(made, key, value)
    return made


def described(ovf: bytes) -> bytes:
    return tar([("machine.ovf", ovf), DISK])


def pax(**headers: str) -> bytes:
    member = tarfile.TarInfo("disk.vmdk")
    member.pax_headers = headers
    return tar([("machine.ovf", OVF), (member, vmdk())], tarfile.PAX_FORMAT)


def gnu_with_prefix(prefix: bytes) -> bytes:
    """A member in GNU's form with something where the other form has the beginning of a name."""
    data = bytearray(put(tar([("machine.ovf", OVF), DISK], tarfile.GNU_FORMAT), 1024 + 345, f"{len(prefix)}s", prefix))
    data[1024 + 148 : 1024 + 156] = b" " * 8
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:1536])
    return bytes(data)


@pytest.mark.parametrize(
    "data, reason",
    [
        (ova(BACKED), "'disk.vmdk': qcow2: the image names a backing file"),
        (ova(DESCRIPTOR.encode()), "'disk.vmdk': vmdk: the data is only a descriptor"),
        (ova(vhd_dynamic(kind=4)), "'disk.vmdk': vhd: a differencing disk"),
        (ova(iso(qcow2())), "several formats at once"),
        (ova(vmdk()[:100]), "'disk.vmdk': vmdk: truncated"),
        (tar([("machine.ovf", OVF), DISK, ("machine.mf", BACKED)]), "'machine.mf': qcow2: the image names a backing file"),
        (tar([("machine.ovf", OVF), DISK, ("other.iso", iso() + bytes(1 << 20)), ("z", BACKED)]), "'z': qcow2"),
        (tar([("machine.ovf", OVF), ("../disk.vmdk", vmdk())]), "a name outside the archive"),
        (tar([("machine.ovf", OVF), ("a/../../disk.vmdk", vmdk())]), "a name outside the archive"),
        (tar([("machine.ovf", OVF), ("/disk.vmdk", vmdk())]), "a name outside the archive"),
        (tar([("machine.ovf", OVF), ("..\\disk.vmdk", vmdk())]), "a name outside the archive"),
        *(
            (tar([("machine.ovf", OVF.replace(b"disk.vmdk", name.encode())), (name, vmdk())]), "a name outside the archive")
            for name in ("file:///etc/passwd", "http://10.0.0.1/disk.vmdk", "c:x", "a//b", "a/./b", ".", "a/..", "new\nline")
        ),
        *(
            (tar([("machine.ovf", OVF.replace(b"disk.vmdk", name.encode())), (name, vmdk())]), "not in the archive: '../passwd'")
            for name in ("&#46;&#46;/passwd", "%2e%2e/passwd", "&#x2e;&#37;2e/passwd")
        ),
        (put(ova(), 1024 + 345, "2s", b".."), "a member's header is damaged"),
        (gnu_with_prefix(b"../../etc"), "a name outside the archive"),
        (ova(b"some text that somebody may take for a descriptor"), "'disk.vmdk' is not a VMDK image"),
        (tar([("machine.ovf", OVF), DISK, DISK]), "two members have one name"),
        (tar([("machine.ovf", OVF), DISK, ("./disk.vmdk", vmdk())]), "two members have one name"),
        (tar([("machine.ovf", OVF), (info("disk.vmdk", tarfile.SYMTYPE, linkname="/etc/passwd"), b"")]), "only regular files"),
        (tar([("machine.ovf", OVF), (info("disk.vmdk", tarfile.LNKTYPE, linkname="machine.ovf"), b"")]), "only regular files"),
        (tar([(info("d", tarfile.DIRTYPE), b""), ("machine.ovf", OVF), DISK]), "only regular files"),
        (tar([("machine.ovf", OVF), DISK, (info("dev", tarfile.BLKTYPE), b"")]), "only regular files"),
        (tar([("machine.ovf", OVF), DISK, *((f"f{n}", b"") for n in range(63))]), "more than 64 members"),
        (b"".join(info("pax", b"x").tobuf() for _ in range(200)) + ova(), "more than 64 members, with a header or two each"),
        (ova(gzip.compress(DESCRIPTOR.encode())), "'disk.vmdk' is not a VMDK image"),
        (tar([DISK]), "no OVF description"),
        (tar([("a.ovf", OVF), ("b.ovf", OVF), DISK]), "two OVF descriptions"),
        (tar([("machine.ovf", OVF)]), "a file that is not in the archive: 'disk.vmdk'"),
        (described(OVF.replace(b"disk.vmdk", b"http://10.0.0.1/disk.vmdk")), "not in the archive: 'http://10.0.0.1/disk.vmdk'"),
        (described(OVF.replace(b'href="disk.vmdk"', b"ovf:HREF = 'file:///etc/passwd'")), "not in the archive: 'file:///etc/passwd'"),
        (described(OVF.replace(b"disk.vmdk", b"/etc/passwd")), "not in the archive: '/etc/passwd'"),
        (described(OVF.replace(b"<Envelope>", b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><Envelope>")), "has a DTD"),
        (described(OVF.replace(b"UTF-8", b"UTF-7")), "not in UTF-8"),
        (described(OVF.decode().encode("utf-16")), "not XML in UTF-8"),
        (described(b"no XML"), "not XML in UTF-8"),
        (described(OVF + b" " * (1 << 20)), "longer than 1 MiB"),
        (pax(path="../../etc/passwd"), "a pax header says more"),
        (pax(size="5"), "a pax header says more"),
        (pax(**{"GNU.sparse.name": "x"}), "a pax header says more"),
        (pax(comment="many\n19 path=/etc/passwd"), "a pax header says more"),
        (ova()[:1024] + pax(comment="x" * 20)[1024:].replace(b"32 comment=", b"12 comment="), "a pax header says more"),
        (ova()[:-3000] + BACKED.ljust(20480, b"\0"), "something follows the end of the archive"),
        (ova().rstrip(b"\0"), "the archive is cut short"),
        (ova()[: 512 * 6], "the archive is cut short"),
        (ova() + bytes(2 << 20), "something follows the end of the archive"),
        (put(ova(), 1024 + 10, "1s", b"x"), "a member's header is damaged"),
    ],
)
@pytest.mark.parametrize("block", [1 << 18, 700])
def test_an_archive_is_refused_by_the_rule(data: bytes, reason: str, block: int) -> None:
    said = refusal(data, "vmdk", "ova", block=block)

    assert said.startswith("Image failed safety checks: ova: ")
    assert reason in said


@pytest.mark.parametrize(
    "data",
    [
        ova(),
        ova(streamed_vmdk()),
        ova(ovf=b"\xef\xbb\xbf" + OVF),
        tar([("machine.ovf", OVF), ("machine.mf", b"SHA256(disk.vmdk)= 00\n"), DISK, ("cd.iso", iso()), ("empty", b"")]),
        tar([("./machine.ovf", OVF), ("./disk.vmdk", vmdk())]),
        tar([("machine.ovf", OVF), DISK], tarfile.GNU_FORMAT),
        tar([("my machine.ovf", OVF.replace(b"disk.vmdk", b"a/my%20disk &amp; more")), ("a/my disk & more", vmdk())]),
        pax(mtime="1.5", comment="packed by hand"),
        tar([("machine.ovf", OVF), (info("disk.vmdk", tarfile.REGTYPE, uname="somebody"), vmdk())]),
    ],
)
def test_a_machine_with_its_disk_is_taken(data: bytes) -> None:
    verdict = inspect(data, "vmdk", "ova")

    assert (verdict.format, verdict.virtual_size) == ("tar", SIZE)


def test_a_machine_of_several_disks_has_no_one_virtual_size() -> None:
    assert inspect(tar([("machine.ovf", OVF), DISK, ("second.vmdk", vmdk())]), "vmdk", "ova").virtual_size is None


def test_a_member_of_the_disk_format_must_be_there() -> None:
    other = OVF.replace(b"disk.vmdk", b"disk")

    assert refusal(tar([("machine.ovf", other), ("disk", qcow2())]), "qcow2", "ova") == ""
    assert refusal(tar([("machine.ovf", other), ("disk", vhd_fixed())]), "vhd", "ova") == ""
    assert refusal(tar([("machine.ovf", other), ("disk", qcow2())]), "vmdk", "ova") == (
        "Image disk_format vmdk does not match stream data tar: the archive holds qcow2"
    )


@pytest.mark.parametrize("data, found", [(b"", "raw"), (vmdk(), "vmdk"), (qcow2(), "qcow2"), (b"x" * 10_000, "raw")])
def test_what_is_no_archive_is_no_ova(data: bytes, found: str) -> None:
    assert f"Image container_format ova does not match stream data {found}" in refusal(data, "vmdk", "ova")
