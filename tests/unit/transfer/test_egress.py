"""The gate: which URLs and addresses may be fetched, by every vector of docs/design/outbound.md, with a resolver that answers what we like."""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence

import pytest

from ikon.config import Egress, Events, Settings
from ikon.problems import SourceNotAllowed
from ikon.transfer.egress import Gate, Target, is_own, take_apart, why_not

INSIDE = [
    "127.0.0.1", "0.0.0.0", "0.1.2.3", "169.254.169.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
    "100.100.100.200", "168.63.129.16", "192.0.0.8", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.88.99.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fec0::1", "ff02::1", "100::1", "2001:db8::1", "3fff::1", "2001::1", "5f00::1",
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "64:ff9b:1::808:808",
    "2002:7f00:1::", "2002:a00:1::1", "2001:0:808:808:0:0:80ff:fefe", "2a00:1450::5efe:10.0.0.1", "2a00:1450::200:5efe:7f00:1",
]  # fmt: skip
OUTSIDE = [
    "8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1", "169.253.255.255", "223.255.255.255", "191.255.255.255",
    "2a00:1450:4001::1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2a00:1450::5efe:8.8.8.8",
]  # fmt: skip
NEVER_WRITTEN_SO = [
    "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://017700000001/", "http://0177.0.0.1/", "http://0/", "http://0x/", "http://127.0.0.0x1/",
    "http://127.0.0.1./", "http://8.8.8.8./", "http://08.8.8.8/", "http://8.8.8.256/", "http://8.8.8/", "http://a.1/", "http://[::1", "http://[::1]x/",
    "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[1.2.3.4]/", "http://[:::1]/", "http://::1/",
    "http://a:0/", "http://a:/", "http://a:99999/", "http://a:080/", "http://a:+80/", "http://a:22/", "http://a:8080/", "https://a:22/",
    "http://user@host/", "http://user:pass@host/", "http://@host/", "http://host#@other/#", "http://host\\@other/", "http://host\\/", "http:\\\\host/",
    "http://１２７.0.0.1/", "http://127。0。0。1/", "http://①②⑦.0.0.1/", "http://ⓔxample.com/", "http://bücher.example/", "http://ex%61mple.com/",
    "http://a b/", "http://a/ b", "http://a/\tb", "http://a/\n", "http://a/\r\nHost: b", "\nhttp://a/", "http://a/\0", "http://a/%zz", "http://a/%4",
    "http:///", "http://", "http:a", "//a/", "a", "", "file:///etc/passwd", "ftp://a/", "gopher://a/", "http+unix://a/", "javascript:1",
    "http://a..b/", "http://.a/", "http://-a/", "http://a-/", "http://a../", f"http://{'a' * 64}.b/", f"http://{'a.' * 127}bc/", f"http://a/{'b' * 8192}",
    "http://a/[", "http://a/|", "http://a/{b}", "http://a/#b#c",
]  # fmt: skip
WRITTEN_RIGHT = [
    ("http://example.com", Target("http", "example.com", 80, "/", None)),
    ("HTTPS://EXAMPLE.COM./a/b?c=d&e=%20#f", Target("https", "example.com", 443, "/a/b?c=d&e=%20", None)),
    ("http://example.com:443/", Target("http", "example.com", 443, "/", None)),
    ("http://example.com?q", Target("http", "example.com", 80, "/?q", None)),
    ("http://xn--bcher-kva.example/", Target("http", "xn--bcher-kva.example", 80, "/", None)),
    ("http://a_b.example/~u/(1);v=", Target("http", "a_b.example", 80, "/~u/(1);v=", None)),
    ("http://8.8.8.8/", Target("http", "8.8.8.8", 80, "/", ipaddress.IPv4Address("8.8.8.8"))),
    ("https://[2A00:1450:0::1]/", Target("https", "2a00:1450::1", 443, "/", ipaddress.IPv6Address("2a00:1450::1"))),
]


def gate(*answers: str | Sequence[str], closed: Sequence[str] = (), **settings: list[str]) -> Gate:
    """A gate whose names have these addresses: one answer for each look-up, the last one for ever."""
    left = list(answers)

    async def resolve(host: str) -> Sequence[str]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [found] if isinstance(found, str) else found

    return Gate(Egress(**settings), resolve, closed, own=lambda address: str(address) == "8.8.4.4")  # type: ignore[arg-type]


async def judged(gate: Gate, url: str) -> str:
    """What comes of a URL: the addresses that may be connected to, "refused", or "not allowed" where no name need be looked up."""
    try:
        return ", ".join(map(str, await gate.addresses(gate.target(url))))
    except SourceNotAllowed:
        return "not allowed"
    except ValueError:
        return "refused"


def literal(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


@pytest.mark.parametrize("address", INSIDE)
async def test_an_address_inside_is_refused_as_a_literal_by_a_name_and_behind_a_redirect(address: str) -> None:
    nearby = gate(address)

    assert await judged(nearby, literal(address)) == "not allowed"
    for name in ("name.example", "localhost", "localhost.", "LOCALHOST", "127.0.0.1.nip.example", "169-254-169-254.nip.example"):
        assert await judged(nearby, f"http://{name}/") == "refused"
    with pytest.raises(SourceNotAllowed):
        nearby.target(literal(address), take_apart("http://name.example/"))


@pytest.mark.parametrize("address", OUTSIDE)
async def test_an_address_outside_is_given_as_a_literal_and_by_a_name(address: str) -> None:
    given = str(ipaddress.ip_address(address))

    assert await judged(gate(address), literal(address)) == given
    assert await judged(gate(address), "http://name.example/") == given


@pytest.mark.parametrize("url", NEVER_WRITTEN_SO)
def test_a_url_that_is_not_strictly_right_is_not_allowed(url: str) -> None:
    with pytest.raises(SourceNotAllowed):
        gate("8.8.8.8").target(url)


@pytest.mark.parametrize(("url", "target"), WRITTEN_RIGHT)
def test_a_right_url_has_one_reading(url: str, target: Target) -> None:
    assert gate("8.8.8.8").target(url) == target


@pytest.mark.parametrize(
    ("answer", "comes"),
    [
        (["8.8.8.8", "1.1.1.1"], "8.8.8.8, 1.1.1.1"),
        (["8.8.8.8", "127.0.0.1"], "refused"),
        (["10.0.0.1", "8.8.8.8"], "refused"),
        (["8.8.8.8", "::1"], "refused"),
        (["fe80::1%eth0"], "refused"),
        (["8.8.8.8", "8.8.8.8"], "8.8.8.8"),
        ([], "refused"),
    ],
)
async def test_one_bad_answer_spoils_a_name(answer: list[str], comes: str) -> None:
    assert await judged(gate(answer), "http://name.example/") == comes


async def test_a_name_is_looked_up_once_and_each_look_up_is_judged_anew() -> None:
    changing = gate("8.8.8.8", "127.0.0.1")
    target = changing.target("http://name.example/")

    assert [str(address) for address in await changing.addresses(target)] == ["8.8.8.8"]
    with pytest.raises(ValueError, match=r"127\.0\.0\.1 is private or loopback"):
        await changing.addresses(target)


@pytest.mark.parametrize(
    ("base", "location", "comes"),
    [
        ("https://a.example/x/y", "z?q", "https://a.example/x/z?q"),
        ("https://a.example/x", "//b.example/", "https://b.example/"),
        ("https://a.example/x", "/y#f", "https://a.example/y"),
        ("http://a.example/x", "https://b.example/", "https://b.example/"),
        ("https://a.example/x", "http://a.example/", "not allowed"),
        ("http://a.example/x", "file:///etc/passwd", "not allowed"),
        ("http://a.example/x", "\thttp://b.example/", "not allowed"),
        ("http://a.example/x", "//u@b.example/", "not allowed"),
        ("http://a.example/x", "http://a.example:8080/", "not allowed"),
        ("http://a.example/x", "/\\b.example/", "not allowed"),
        ("http://a.example/x", "/ü", "not allowed"),
        ("http://a.example/x", "", "not allowed"),
    ],
)
def test_a_redirect_passes_the_same_gate(base: str, location: str, comes: str) -> None:
    try:
        target = gate("8.8.8.8").target(location, take_apart(base))
        found = target.origin + target.path
    except SourceNotAllowed:
        found = "not allowed"

    assert found == comes


@pytest.mark.parametrize(
    ("networks", "opened", "closed"),
    [
        (["10.1.0.0/16"], ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"], ["10.2.0.1", "127.0.0.1", "192.168.0.1", "169.254.169.254"]),
        (["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"], ["100.64.0.1", "fd00::1"], ["127.0.0.1", "::1", "100.100.100.200", "fd00:ec2::254"]),
        (["127.0.0.0/8"], ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1"], ["::1", "0.0.0.0", "10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"]),
        (["::1/128"], ["::1"], ["127.0.0.1", "::", "fe80::1"]),
    ],
)  # fmt: skip
async def test_allowed_networks_open_what_they_name_and_nothing_beside(networks: list[str], opened: list[str], closed: list[str]) -> None:
    for address in opened:
        assert await judged(gate(address, allowed_networks=networks), "http://name.example/") == str(ipaddress.ip_address(address))
    for address in closed:
        assert await judged(gate(address, allowed_networks=networks), "http://name.example/") == "refused"


async def test_allowed_hosts_open_private_addresses_for_these_names_alone_and_loopback_for_none() -> None:
    hosts = {"allowed_hosts": ["mirror.example"]}

    assert await judged(gate("10.0.0.1", **hosts), "http://Mirror.Example./") == "10.0.0.1"
    assert await judged(gate("fd00::1", **hosts), "http://mirror.example/") == "fd00::1"
    for name in ("mirror.example.evil.example", "a.mirror.example", "other.example"):
        assert await judged(gate("10.0.0.1", **hosts), f"http://{name}/") == "refused"
    for address in ("127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "::ffff:127.0.0.1"):
        assert await judged(gate(address, **hosts), "http://mirror.example/") == "refused"


async def test_an_address_of_this_machine_is_open_only_where_it_stands_by_itself() -> None:
    assert await judged(gate("8.8.4.4"), "http://name.example/") == "refused"
    assert await judged(gate("8.8.4.4"), "http://8.8.4.4/") == "not allowed"

    own = Gate(Egress(allowed_networks=["10.0.0.0/8"]), lambda host: asyncio.sleep(0, ["10.0.0.5"]), own=lambda address: True)
    assert await judged(own, "http://name.example/") == "refused"
    own = Gate(Egress(allowed_networks=["10.0.0.5/32"]), lambda host: asyncio.sleep(0, ["10.0.0.5"]), own=lambda address: True)
    assert await judged(own, "http://name.example/") == "10.0.0.5"


def test_this_machine_knows_its_own_addresses() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
        assert is_own(ipaddress.ip_address(probe.getsockname()[0]))
    assert not is_own(ipaddress.ip_address("8.8.8.8"))


async def test_servers_that_ikon_stands_on_are_closed_whatever_is_opened() -> None:
    settings = Settings(database="postgresql+psycopg://u:p@db.internal:5432/ikon?host=10.0.0.8,10.0.0.9:5433")
    assert settings.own_servers == ["db.internal", "10.0.0.8", "10.0.0.9"]
    assert Settings(database="sqlite:////var/lib/ikon.db").own_servers == []
    bus = Events(notifications="rabbit://u:p@10.0.0.6:5672,u:p@[fd00::6]:5672/ikon")
    assert Settings(broker="amqp://u:p@mq.internal/v", events=bus).own_servers == ["mq.internal", "10.0.0.6", "fd00::6"]

    wide = gate("10.0.0.9", closed=["10.0.0.9"], allowed_networks=["10.0.0.0/8"])
    assert await judged(wide, "http://name.example/") == "refused"
    by_name = gate(["10.0.0.7"], closed=["db.internal"], allowed_networks=["10.0.0.0/8"])
    assert await judged(by_name, "http://name.example/") == "refused"


async def test_where_the_operator_chose_the_url_inside_addresses_and_all_ports_are_open_and_what_is_never_a_source_stays_closed() -> None:
    for address in ("127.0.0.1", "10.0.0.9", "::1", "fd00::1", "8.8.4.4", "8.8.8.8"):
        door = gate(address, closed=["10.0.0.9"])
        target = door.target("http://images.example:9292/v2", chosen=True)
        assert [str(found) for found in await door.addresses(target)] == [address]
        assert target.chosen
    for address in ("169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1", "fe80::1", "192.0.2.1", "240.0.0.1"):
        door = gate(address)
        with pytest.raises(ValueError, match=re.escape(address)):
            await door.addresses(door.target("http://images.example:9292/v2", chosen=True))
    with pytest.raises(SourceNotAllowed):
        gate("8.8.8.8").target("http://169.254.169.254/", chosen=True)


def test_only_a_redirect_within_a_chosen_origin_is_as_free_as_it() -> None:
    door = gate("8.8.8.8")
    first = door.target("http://127.0.0.1:9292/v2/images", chosen=True)

    within = door.target("/v2/other", first)
    assert within.chosen
    away = door.target("http://public.example/", within)
    assert not away.chosen
    for url in ("http://127.0.0.1/", "http://127.0.0.1:9293/v2", "http://10.0.0.1/", "http://public.example:9292/"):
        with pytest.raises(SourceNotAllowed):
            door.target(url, first)
    with pytest.raises(SourceNotAllowed):
        door.target("http://127.0.0.1:9292/v2", away)  # back again


@pytest.mark.parametrize("address", ["::ffff:10.0.0.9", "64:ff9b::10.0.0.9", "2002:a00:9::1"])
async def test_an_address_inside_another_is_as_closed_as_by_itself(address: str) -> None:
    opened = {"allowed_networks": ["10.0.0.0/8"]}
    closed = gate(address, closed=["10.0.0.9"], **opened)
    assert await judged(closed, "http://name.example/") == "refused"
    assert await judged(closed, f"http://[{address}]/") == "refused"

    own = Gate(Egress(**opened), lambda host: asyncio.sleep(0, [address]), own=lambda asked: str(asked) == "10.0.0.9")
    assert await judged(own, "http://name.example/") == "refused"


async def test_the_ports_are_those_of_the_setting_and_the_scheme_s_own_counts() -> None:
    only = Gate(Egress(allowed_ports=[8443]), lambda host: asyncio.sleep(0, ["8.8.8.8"]))

    assert await judged(only, "https://name.example:8443/") == "8.8.8.8"
    assert await judged(only, "https://name.example/") == "not allowed"
    assert await judged(only, "http://name.example/") == "not allowed"


def test_the_refusal_says_what_is_allowed_and_nothing_of_the_network() -> None:
    said = set()
    for url in (
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "http://169.254.169.254/",
        "http://a:22/",
        "http://u@a/",
        "file:///x",
        "http://8.8.4.4/",
    ):
        with pytest.raises(SourceNotAllowed) as refused:
            gate("8.8.8.8").target(url)
        assert refused.value.because
        said.add((str(refused.value), refused.value.status))

    assert len(said) == 1
    assert "ports 80, 443" in said.pop()[0]


def test_every_ipv4_range_that_is_not_public_is_closed_to_its_edges() -> None:
    for text in ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3"):  # fmt: skip
        network = ipaddress.ip_network(text)
        assert why_not(network[0])
        assert why_not(network[-1])
