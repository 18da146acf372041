"""Every sample image, by every way in, under every container format, with and without conversion: what the rules say, cell by cell."""

import collections
import functools
import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.world import eventually
from tests.services.servers import Server
from tests.wire.server import BYTES, UNFORESEEN, Ikon

pytestmark = pytest.mark.slow
WAYS = ("upload", "glance-direct", "web-download")
PARTS = ("aki", "ari", "ami")
CONTAINERS = ("bare", "ovf", "ova", "docker", "compressed", *PARTS)
SUFFIXES = {
    ".qcow2": "qcow2",
    ".vmdk": "vmdk",
    ".vhd": "vhd",
    ".vhdx": "vhdx",
    ".vdi": "vdi",
    ".iso": "iso",
    ".hds": "ploop",
    ".ova": "vmdk",
}

# The rules, from the specification of the service: what is in each file, what speaks against it, and what a record may call it.

#: What a file holds where its name does not say.
HOLDS = {
    "flat-flat.vmdk": "raw", "disk.luks": "luks", "docker.tar.gz": "gzip", "disk.raw.gz": "gzip", "bomb.gz": "gzip", "disk.raw.bz2": "bzip2",
    "disk.raw.xz": "xz", "disk.raw.zst": "zstd", "initrd": "gzip", "disk.qed": "qed", "qcow2-named.raw": "qcow2",
}  # fmt: skip
PACKED = ("gzip", "bzip2", "xz", "zstd")
#: Each rule against files that are dangerous whatever they are called: words of the refusal, and the files.
DANGERS: dict[str, tuple[str, str]] = {
    "qcow2: backing file": ("names a backing file", "backing-local.qcow2 backing-json.qcow2 backing-nbd.qcow2 backing.qcow2"),
    "qcow2: external data file": ("external data file", "datafile-local.qcow2 datafile-by-extension.qcow2 datafile.qcow2"),
    "qcow2: unknown incompatible bit": ("features that are unknown", "incompat-bits.qcow2"),
    "qcow2: extended L2, by option only": ("extended L2 entries are not allowed", "extended.qcow2"),
    "qcow2: encrypted, by option only": ("is encrypted", "encrypted.qcow2"),
    "qcow2: corrupt bit": ("marked corrupt", "corrupt.qcow2"),
    "qcow2: L1 table": ("longer than 32 MiB", "l1-huge.qcow2"),
    "qcow version 1": ("version 1 is not taken", "qcow1.qcow2"),
    "QED": ("QED images are not taken", "disk.qed"),
    "virtual size": ("is over the limit of", "size-4E.qcow2 virtual-128T.qcow2"),
    "VMDK: descriptor alone": ("only a descriptor", "flat.vmdk split.vmdk extent-local.vmdk createtype-device.vmdk"),
    "VMDK: one of several extents": ("has 0 extents, not one", "split-s001.vmdk"),
    "VMDK: duplicate key": ("says createtype twice", "two-types.vmdk hidden-type.vmdk"),
    "VMDK: parent": ("names a parent", "parent.vmdk"),
    "VMDK: extent outside": ("an extent is not one sparse extent", "extent-elsewhere.vmdk"),
    "VMDK: descriptor outside its place": ("does not lie behind the header", "two-descriptors.vmdk"),
    "VMDK: footer differs": ("footer differs from the header", "two-headers.vmdk"),
    "VHD: differencing or parent": ("differencing disk|names a parent", "differencing.vhd parent.vhd"),
    "VHD: footers differ": ("differs from the one at the start", "two-footers.vhd"),
    "VHDX: parent": ("names a parent", "parent.vhdx"),
    "VDI: differencing or parent": ("needs a parent", "differencing.vdi parent.vdi"),
    "GPT: protective MBR with more": ("protective MBR", "gpt-and-more.raw"),
    "several formats at once": ("several formats at once", "luks-and-iso.iso qcow2-and-vhd.vhd iso-and-qcow2.iso"),
    "truncated": ("truncated", "header-cut.qcow2 header-cut.vmdk eight-bytes"),
}
#: The same for archives, which are opened as OVA and as nothing else.
OVA_DANGERS: dict[str, tuple[str, str]] = {
    "OVA: dangerous disk inside": ("names a backing file|only a descriptor", "backing.ova descriptor.ova"),
    "OVA: member that is no file": ("only regular files", "link.ova"),
    "OVA: member outside": ("outside the archive", "outside.ova"),
    "OVA: external reference or DTD": ("not in the archive|DTD", "elsewhere.ova dtd.ova"),
}
MISMATCH = "not the declared format"
#: What qemu-img is told that a source is; only such disks are converted, and only where they are not in a container.
DISKS = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "vdi": "vdi"}


def holds(name: str) -> str:
    """The format of a file's bytes."""
    suffix = Path(name).suffix
    return HOLDS.get(name) or ("tar" if suffix == ".ova" else SUFFIXES.get(suffix, "raw"))


def rules_against(name: str, disk: str, container: str) -> dict[str, str]:
    """The rules by which a file must be refused under this record, with words of the refusal; none: it must be taken."""
    form = holds(name)
    dangers = OVA_DANGERS if form == "tar" and container == "ova" else DANGERS
    found = {rule: words for rule, (words, names) in dangers.items() if name in names.split()}
    if container == "compressed":
        fits = form in PACKED
    elif container == "ova":
        fits = form == "tar"
    else:
        fits = form == disk or disk in ("raw", *PARTS) or (container == "docker" and form in ("tar", *PACKED))
    return found if fits else found | {MISMATCH: "does not match stream data"}


def converted(name: str, disk: str, container: str, wanted: str) -> tuple[str, bool]:
    """The disk_format that an import must end with where all is to be `wanted`, and whether its bytes must be other ones then."""
    form = holds(name)
    if container != "bare" or disk in PARTS or form not in DISKS or name == "empty" or not wanted:
        return disk, False
    return wanted, form != wanted


# The cells


class Cell(NamedTuple):
    """One file, brought in under one record by one way."""

    path: Path
    disk: str
    container: str
    way: str

    def __str__(self) -> str:
        return f"{self.path.name} as {self.disk} in {self.container} by {self.way}"


class Sizes(NamedTuple):
    """What the test itself knows of a file."""

    sha512: str
    virtual: int


@pytest.fixture(scope="module")
def source(images: Path) -> Iterator[str]:
    """The URL under which a web server has the files."""
    with Server("http") as server:
        (server.directory / "root/images").symlink_to(images)
        yield f"http://127.0.0.1:{server.port}/images"


def records(path: Path) -> list[tuple[str, str]]:
    """What a file may be called: in each container its own format, and raw; and a part of a machine. First what it is."""
    own = SUFFIXES.get(path.suffix, "raw")
    home = "ova" if path.suffix == ".ova" else "compressed" if path.suffix in (".gz", ".bz2", ".xz", ".zst") else "bare"
    pairs = [(disk, container) for container in CONTAINERS if container not in PARTS for disk in dict.fromkeys((own, "raw"))]
    return sorted([*pairs, *((part, part) for part in PARTS)], key=lambda pair: pair != (own, home))


def few(paths: list[Path], turn: int) -> list[Cell]:
    """Each file by every way as what it is, and under half of the other records by one way each; turn: which half."""
    cells = []
    for at, path in enumerate(paths, turn):
        first, *others = records(path)
        cells += [Cell(path, *first, way) for way in WAYS]
        cells += [Cell(path, *record, WAYS[(at + n // 2) % 3]) for n, record in enumerate(others) if (at + n) % 2]
    return cells


def all_of(paths: list[Path]) -> list[Cell]:
    """The whole product."""
    return [Cell(path, disk, container, way) for path in paths for disk, container in records(path) for way in WAYS]


# How a cell is tried


def bring(ikon: Ikon, source: str, cell: Cell) -> tuple[dict[str, Any], str]:
    """Try a cell: the image's record afterwards, and what was said against it."""
    image = str(ikon.create(disk_format=cell.disk, container_format=cell.container)["id"])
    if cell.way == "upload":
        answer = ikon.upload(image, cell.path.read_bytes())
        assert answer.status in (204, 415), f"{cell}: {answer}"
        return ikon.show(image), "" if answer.status == 204 else answer.message
    if cell.way == "glance-direct":
        assert ikon.call("PUT", f"/v2/images/{image}/stage", cell.path.read_bytes(), BYTES).status == 204, cell
    method = {"name": cell.way} | ({"uri": f"{source}/{cell.path.parent.name}/{cell.path.name}"} if cell.way == "web-download" else {})
    assert ikon.post(f"/v2/images/{image}/import", {"method": method}).status == 202, cell
    end = time.monotonic() + 120
    while (record := ikon.show(image))["status"] == "importing":
        assert time.monotonic() < end, f"{cell}: {record}"
        time.sleep(0.03)
    [task] = ikon.get(f"/v2/images/{image}/tasks").json["tasks"]
    assert task["status"] == ("success" if record["status"] == "active" else "failure"), f"{cell}: {task}"
    return record, "" if task["status"] == "success" else task["message"]


@functools.cache
def sizes(path: Path) -> Sizes:
    """What the tools say of a source."""
    form = DISKS.get(holds(path.name))
    told = subprocess.run(["qemu-img", "info", "-f", form or "raw", "--output=json", path], capture_output=True, check=True).stdout
    return Sizes(hashlib.sha512(path.read_bytes()).hexdigest(), json.loads(told)["virtual-size"])


def same_disk(ikon: Ikon, record: dict[str, Any], path: Path) -> bool:
    """Whether an image has the same disk inside as the file that it was made of."""
    with tempfile.NamedTemporaryFile() as kept:
        kept.write(ikon.download(record["id"]).body)
        kept.flush()
        line = ["qemu-img", "compare", "-f", DISKS[holds(path.name)], "-F", DISKS[record["disk_format"]], path, kept.name]
        return subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode == 0


class Trial:
    """All cells of one server. wanted: the format that it converts to, "" for none."""

    def __init__(self, ikon: Ikon, source: str, wanted: str) -> None:
        self._ikon, self._source, self._wanted = ikon, source, wanted
        self._compared: dict[tuple[Path, str], bool] = {}
        self.refused: collections.Counter[str] = collections.Counter()
        self.taken = self.converted = 0

    def run(self, cells: list[Cell]) -> list[str]:
        """Try them, and see that nothing is left of them. Returns what is not as the rules say."""
        with ThreadPoolExecutor(6) as pool:
            wrong = [each for each in pool.map(self._one, cells) if each]
        staging = self._ikon.directory / "data/staging"
        eventually(lambda: not [path for path in (*self._ikon.files(), *staging.iterdir()) if path.is_file()], 60)
        return wrong

    def _one(self, cell: Cell) -> str:
        record, said = bring(self._ikon, self._source, cell)
        wrong = self._judge(cell, record, said)
        assert self._ikon.delete(record["id"]).status == 204
        return f"{cell}: {wrong}; {record['status']}, {said}" if wrong else ""

    def _judge(self, cell: Cell, record: dict[str, Any], said: str) -> str:
        rules = rules_against(cell.path.name, cell.disk, cell.container)
        if rules:
            met = next((rule for rule, words in rules.items() if any(word in said for word in words.split("|"))), "")
            self.refused[met] += 1
            return "" if met and record["status"] == "queued" and record["size"] is None else f"not refused by {rules}"
        if said or record["status"] != "active":
            return "not taken"
        self.taken += 1
        disk, changes = converted(cell.path.name, cell.disk, cell.container, self._wanted if cell.way != "upload" else "")
        if record["disk_format"] != disk:
            return f"the record says {record['disk_format']}, not {disk}"
        if not changes:
            return "" if record["os_hash_value"] == sizes(cell.path).sha512 else "other bytes than came"
        self.converted += 1
        if record["virtual_size"] != sizes(cell.path).virtual:
            return f"a disk of {record['virtual_size']} bytes, not of {sizes(cell.path).virtual}"
        key = cell.path, record["os_hash_value"]
        if key not in self._compared:
            self._compared[key] = same_disk(self._ikon, record, cell.path)
        return "" if self._compared[key] else "another disk inside"


def try_all(ikon: Ikon, source: str, wanted: str, cells: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    """Try cells, show figures, and have all be as the rules say."""
    trial, began = Trial(ikon, source, wanted), time.monotonic()
    wrong = trial.run(cells)
    with capsys.disabled():
        print(f"\n{len(cells)} cells, {wanted or 'no'} conversion: {trial.taken} taken, {trial.converted} of them converted and compared,")
        print(f"{sum(trial.refused.values())} refused, {len(wrong)} wrong, {time.monotonic() - began:.0f} s")
        print("\n".join(f"{count:6} {rule}" for rule, count in sorted(trial.refused.items())))
    assert not wrong, "\n".join(wrong[:40])
    assert not [word for word in UNFORESEEN if word in ikon.said()]


@pytest.fixture(scope="module")
def paths(images: Path) -> list[Path]:
    """All samples but the terabyte."""
    return [path for folder in ("small", "hostile") for path in sorted((images / folder).iterdir()) if path.name != "sparse-1T.raw"]


def server(directory: Path, source: str, wanted: str) -> Ikon:
    port = int(source.split(":")[2].split("/")[0])
    return Ikon(
        directory,
        egress={"allowed_networks": ["127.0.0.0/8"], "allowed_ports": [port]},
        conversion={"output_format": wanted},
        log_level="warning",
    )


def test_every_sample_is_named_in_the_rules(paths: list[Path]) -> None:
    named = {name for _, names in (*DANGERS.values(), *OVA_DANGERS.values()) for name in names.split()}
    harmless = {"bomb.gz", "empty", "iso-and-mbr.iso", "qcow2-named.raw"}

    assert named - {path.name for path in paths} == set()
    assert {path.name for path in paths if path.parent.name == "hostile"} - named == harmless


@pytest.mark.parametrize("wanted", ["", "qcow2"])
def test_each_sample_is_taken_or_refused_by_the_rules(
    wanted: str, paths: list[Path], source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(tmp_path, source, wanted) as ikon:
        try_all(ikon, source, wanted, few(paths, turn=int(wanted == "qcow2")), capsys)


@pytest.mark.full
@pytest.mark.parametrize("wanted", ["", "qcow2", "raw", "vmdk"])
def test_the_whole_matrix_is_as_the_rules_say(
    wanted: str, paths: list[Path], images: Path, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(tmp_path, source, wanted) as ikon:
        try_all(ikon, source, wanted, all_of([*paths, *sorted((images / "boot").iterdir())]), capsys)
