"""Every wrong setting stops the start and names the key, what was given and what is allowed: from the file, the environment, an option."""

from pathlib import Path
from typing import Any

import pytest

from ikon.config import Settings, load
from ikon.problems import StartError
from ikon.stores.registry import open_stores
from ikon.transfer.fetch import Fetcher


def settings(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **options: Any) -> Settings:
    """Settings from a file with this text, as a server in this directory reads them."""
    file = tmp_path / "ikon.toml"
    file.write_text(text)
    found = load(str(file), {"data": str(tmp_path / "data"), **options}, environ or {})
    open_stores(found, Fetcher(found).begin).close()
    return found


FILE = [
    ("nonsense = 1", "nonsense", "is no setting", "Known keys here: broker"),
    ('listen = "here"', "listen", "'here'", "HOST:PORT"),
    ('listen = "127.0.0.1:99999"', "listen", "99999", "HOST:PORT"),
    ('listen = "0.0.0.0:9292"', "listen", "'0.0.0.0:9292'", "none_beyond_loopback = true"),
    ('identity = "everyone"', "identity", "'everyone'", "Allowed: none, headers, users"),
    ("workers = 0", "workers", "0", ">= 1"),
    ("workers = 2", "workers", "2", "Allowed: 1, or set database to MariaDB or PostgreSQL"),
    ('workers = "two"', "workers", "'two'", "Expected `int`"),
    ('database = "oracle://x/y"', "database", "'oracle://x/y'", "mysql+pymysql://"),
    ('database = "sqlite:///relative.db"', "database", "'sqlite:///relative.db'", "sqlite:////PATH"),
    ('log_level = "loud"', "log_level", "'loud'", "Allowed: debug, info, warning, error"),
    ("buffer_mib = 0", "buffer_mib", "0", ">= 1"),
    ("shutdown_grace_s = -1", "shutdown_grace_s", "-1", "> 0"),
    ("shutdown_grace_s = nan", "shutdown_grace_s", "nan", "> 0"),
    ('trusted_proxies = ["10.0.0.300"]', "trusted_proxies", "'10.0.0.300'", "10.0.0.0/8"),
    ("trusted_proxies = [3]", "trusted_proxies", "[3]", "10.0.0.0/8"),
    *(
        (f'public_endpoint = "{url}"', "public_endpoint", url, "without user, query or fragment")
        for url in ("cloud.example", "ftp://a", "http://u@a", "http://a?b", "http://a#b", "http://a:0", "http://")
    ),
    ("limits = 3", "limits", "3", "Bounds on single requests"),
    ("[limits]\npage = 0", "limits.page", "0", ">= 1"),
    ("[limits]\npagge = 5", "limits.pagge", "is no setting", "Known keys here: image_bytes"),
    ('[quota]\nbytes = "5G"', "quota.bytes", "'5G'", "0 sets no limit"),
    ("[http]\nstall_s = 0", "http.stall_s", "0", "> 0"),
    ('[cors]\nallowed_origins = ["*"]', "cors.allowed_origins", "'*'", "a host in lower case"),
    ('[cors]\nallowed_origins = ["https://a.example/"]', "cors.allowed_origins", "'https://a.example/'", "no path"),
    ('[cors]\nallowed_origins = ["https://a.example:443"]', "cors.allowed_origins", "https://a.example:443", "not the usual one"),
    ('[cors]\nallowed_origins = ["http://A.example"]', "cors.allowed_origins", "'http://A.example'", "lower case"),
    ('[cors]\nallowed_origins = ["a.example"]', "cors.allowed_origins", "'a.example'", "http:// or https://"),
    ('[cors]\nallowed_origins = ["null"]', "cors.allowed_origins", "'null'", "http:// or https://"),
    ('[cors]\nallowed_origins = "https://a.example"', "cors.allowed_origins", "'https://a.example'", "Origins of these pages"),
    ("[cors]\norigins = []", "cors.origins", "is no setting", "Known keys here: allowed_origins"),
    ("[egress]\nallowed_ports = [0]", "egress.allowed_ports", "[0]", ">= 1"),
    ('[egress]\nallowed_networks = ["10.0.0.1/8"]', "egress.allowed_networks", "'10.0.0.1/8'", "host bits set"),
    ('[egress]\nallowed_networks = ["0.0.0.0/0"]', "egress.allowed_networks", "'0.0.0.0/0'", "10.0.0.0/8"),
    ('[egress]\nallowed_networks = ["169.254.169.254"]', "egress.allowed_networks", "'169.254.169.254'", "others stay closed"),
    ('[egress]\nallowed_networks = ["10.0.0.0/8", "8.8.8.0/24"]', "egress.allowed_networks", "'8.8.8.0/24'", "open anyway"),
    ('[egress]\nallowed_hosts = ["Mirror.example"]', "egress.allowed_hosts", "'Mirror.example'", "lower case"),
    ('[egress]\nallowed_hosts = ["mirror.example:80"]', "egress.allowed_hosts", "'mirror.example:80'", "without port"),
    ('[egress]\nallowed_hosts = ["10.0.0.1"]', "egress.allowed_hosts", "'10.0.0.1'", "belong into allowed_networks"),
    ('[egress]\nallowed_hosts = ["localhost"]', "egress.allowed_hosts", "'localhost'", "and so does loopback"),
    ("[egress]\nstall_s = 0", "egress.stall_s", "0", "> 0"),
    ('secret = "short"', "secret", "5 characters", "32 or more"),
    ("regions = 3", "regions", "3", "[regions.NAME]"),
    ("[regions.east]", "regions.east.url", "is missing", "endpoint"),
    ('[signatures]\nkey_manager = "barbican:9311"', "signatures.key_manager", "'barbican:9311'", "https://barbican.example.org"),
    (
        '[policy]\nproperty_protection_rule_format = "users"',
        "policy.property_protection_rule_format",
        "'users'",
        "Allowed: roles, policies",
    ),
    ("[regions.east]\nurl = 3", "regions.east.url", "3", "endpoint"),
    ('[regions.east]\nurl = "http://a"\nwait = 3', "regions.east.wait", "is no setting", "Known keys here: password"),
    *(
        (f'[regions.east]\nurl = "{url}"', "regions.east.url", "no endpoint", "http:// or https://")
        for url in (
            "",
            "ftp://a",
            "http://u:p@a",
            "http://a/?b",
            "http://a/#b",
            "http://A",
            "http://a b",
            "http://a:0",
            "a.example",
            "http://",
        )
    ),
    ('[regions."a b"]\nurl = "http://a"', "regions.a b", "a b", "1 to 64 letters"),
    ('[regions."a-b"]\nurl = "http://a"\n[regions.a_b]\nurl = "http://a"', "regions.a-b", "a-b", "differs"),
    ('[regions.east]\nurl = "http://a"\nuser = "u"', "regions.east", "go together", "IKON_REGIONS__EAST__PASSWORD"),
    ('[regions.east]\nurl = "http://a"\nuser = "u:v"\npassword = "p"', "regions.east", "no colon", "IKON_REGIONS__EAST__PASSWORD"),
    ('[regions.east]\nurl = "http://a"\nproperties = [""]', "regions.east.properties", "''", "beginning"),
    ('[regions.east]\nurl = "http://a"\nproperties = ["os_glance_x"]', "regions.east.properties", "os_glance_x", "not os_glance"),
    ('default_store = "two"', "default_store", "'two'", "Allowed: local"),
    ("stores = 3", "stores", "3", "[stores.NAME]"),
    ('[stores.one]\npath = "x"', "stores.one.type", "None", "Allowed: file"),
    ('[stores.one]\ntype = "tape"', "stores.one.type", "'tape'", "Allowed: file"),
    ('[stores.one]\ntype = "file"', "stores.one.path", "is missing", "Directory of the images"),
    ('[stores.one]\ntype = "file"\npath = 3', "stores.one.path", "3", "Directory of the images"),
    ('[stores.one]\ntype = "file"\npath = "/proc/nowhere"', "stores.one.path", "'/proc/nowhere'", "can write to"),
    ('[stores.one]\ntype = "file"\npath = "p"\nwait = 3', "stores.one.wait", "is no setting", "Known keys here: description, path"),
    ('[stores."a b"]\ntype = "file"\npath = "p"', "stores.a b", "a b", "1 to 64 letters"),
    ('[stores.os_glance_x]\ntype = "file"\npath = "p"', "stores.os_glance_x", "os_glance_x", "does not begin with os_glance"),
]


@pytest.mark.parametrize(("text", "key", "given", "allowed"), FILE, ids=[case[0].replace("\n", " ") for case in FILE])
def test_a_wrong_setting_in_the_file_is_named_with_what_is_allowed(tmp_path: Path, text: str, key: str, given: str, allowed: str) -> None:
    with pytest.raises(StartError) as error:
        settings(tmp_path, text)

    said = str(error.value)
    assert said.startswith(f"config: {key}")
    assert given in said
    assert allowed in said
    assert "\n" not in said


ENVIRONMENT = [
    ("IKON_IDENTITY", "everyone", "Allowed: none, headers"),
    ("IKON_WORKERS", "two", "Expected `int`"),
    ("IKON_WORKERS", "0", ">= 1"),
    ("IKON_NONE_BEYOND_LOOPBACK", "perhaps", "Expected `bool`"),
    ("IKON_LIMITS__PAGE", "many", "Expected `int`"),
    ("IKON_LIMITS", "3", "IKON_LIMITS__IMAGE_BYTES"),
    ("IKON_EGRESS__ALLOWED_PORTS", "80,http", "Expected `int`"),
    ("IKON_STORES", "{}", "settings file"),
    ("IKON_NONSENSE", "1", "IKON_DATABASE"),
    ("IKON_LIMITS__NONSENSE", "1", "IKON_LIMITS__PAGE"),
    ("IKON_REGIONS", "east", "settings file"),
    ("IKON_REGIONS__EAST", "x", "regions that the file names"),
    ("IKON_REGIONS__EAST__PASSWORD", "x", "regions that the file names"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), ENVIRONMENT)
def test_a_wrong_variable_is_named_with_what_is_allowed(tmp_path: Path, name: str, value: str, allowed: str) -> None:
    with pytest.raises(StartError) as error:
        settings(tmp_path, environ={name: value})

    said = str(error.value)
    assert name in said or ".".join(name.removeprefix("IKON_").lower().split("__")) in said
    assert allowed in said


@pytest.mark.parametrize(("option", "value"), [("identity", "everyone"), ("workers", 0), ("listen", "here"), ("database", "x")])
def test_a_wrong_option_is_named(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(StartError, match=rf"config: {option} = '?{value}"):
        settings(tmp_path, **{option: value})


def test_an_option_beats_the_environment_and_that_the_file(tmp_path: Path) -> None:
    environ = {"IKON_NODE": "from-environment", "IKON_LOG_LEVEL": "debug", "IKON_LIMITS__PAGE": "7"}

    found = settings(
        tmp_path, 'node = "from-file"\nlog_level = "error"\nbuffer_mib = 9\n[limits]\npage_max = 8', environ, node="from-option"
    )

    assert (found.node, found.log_level, found.buffer_mib) == ("from-option", "debug", 9)
    assert (found.limits.page, found.limits.page_max) == (7, 8)


def test_a_list_in_the_environment_is_parted_by_commas(tmp_path: Path) -> None:
    origins = "https://a.example,http://b.example:8080,http://[2001:db8::1],https://c.example:80"

    found = settings(tmp_path, environ={"IKON_TRUSTED_PROXIES": "10.0.0.0/8, 192.168.1.1", "IKON_CORS__ALLOWED_ORIGINS": origins})

    assert found.trusted_proxies == ["10.0.0.0/8", "192.168.1.1"]
    assert found.cors.allowed_origins == origins.split(",")
    assert settings(tmp_path, environ={"IKON_EGRESS__ALLOWED_PORTS": "80, 8080"}).egress.allowed_ports == [80, 8080]


def test_a_region_s_password_comes_from_the_environment(tmp_path: Path) -> None:
    text = '[regions."Region-1"]\nurl = "http://a"\nuser = "ikon"\n[regions.two]\nurl = "https://b.example:9292/image/v2"'

    found = settings(tmp_path, text, {"IKON_REGIONS__REGION_1__PASSWORD": "p"})

    assert (found.regions["Region-1"].user, found.regions["Region-1"].password, found.regions["two"].password) == ("ikon", "p", "")
    with pytest.raises(StartError, match="IKON_REGIONS__REGION_1__PASSWORD"):
        settings(tmp_path, text, {"IKON_REGIONS__REGION1__PASSWORD": "p"})
    with pytest.raises(StartError, match="url, user and password"):
        settings(tmp_path, text, {"IKON_REGIONS__TWO__PROPERTIES": "p"})


def test_importing_from_regions_is_offered_where_there_are_any(tmp_path: Path) -> None:
    region = '[regions.east]\nurl = "http://a"'

    assert "glance-download" not in settings(tmp_path).imports.methods
    assert "glance-download" in settings(tmp_path, region).imports.methods
    assert settings(tmp_path, f'{region}\n[imports]\nmethods = ["web-download"]').imports.methods == ["web-download"]


def test_importing_from_regions_of_the_catalogue_is_offered_where_tokens_can_be_sealed(tmp_path: Path) -> None:
    for identity, secret, offered in (("keystone", "s" * 32, True), ("keystone", "", False), ("headers", "s" * 32, False)):
        text = f'identity = "{identity}"\nsecret = "{secret}"'
        assert ("glance-download" in settings(tmp_path, text).imports.methods) is offered


def test_what_is_not_set_follows_from_the_data_directory(tmp_path: Path) -> None:
    found = settings(tmp_path)

    assert found.database == f"sqlite:///{tmp_path}/data/ikon.db"
    assert found.stores == {"local": {"type": "file", "path": f"{tmp_path}/data/images"}}
    assert found.default_store == "local"


@pytest.mark.parametrize("text", ["listen = ", "= 3", b"\xff = 1"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str | bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(StartError, match=r"config: .*broken\.toml"):
        load(str(file), {}, {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"config: cannot read .*missing\.toml"):
        load(None, {}, {"IKON_CONFIG": str(tmp_path / "missing.toml")})


@pytest.mark.parametrize("url", ["amqp://ikon:hush@", "http://ikon:hush@rabbit/", "amqp://ikon:hush@rabbit:port/", "hush"])
def test_a_wrong_broker_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(StartError) as refused:
        load(None, {}, {"IKON_BROKER": url})
    assert "broker" in str(refused.value)
    assert "amqp://USER:PASSWORD@HOST" in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ['broker = ["geheim"]', 'secret = ["geheim"]', '[events]\nwebhook_secret = ["geheim"]', '[keystone]\npassword = ["geheim"]']
)
def test_a_secret_of_the_wrong_type_is_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartError) as error:
        settings(tmp_path, text)

    assert "geheim" not in str(error.value)
