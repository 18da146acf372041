"""Access rules of application credentials, and the settings of [keystone]."""

from pathlib import Path
from typing import Any

import pytest

from ikon.config import load
from ikon.keystone import AccessRule, Keystone, UnifiedLimits
from ikon.problems import StartError


@pytest.mark.parametrize(
    ("pattern", "path", "allowed"),
    [
        ("/v2/images", "/v2/images", True),
        ("/v2/images", "/v2/images/1", False),
        ("/v2/images", "/v2/imagesx", False),
        ("/v2/images/*", "/v2/images/1", True),
        ("/v2/images/*", "/v2/images/", False),
        ("/v2/images/*", "/v2/images/1/file", False),
        ("/v2/images/{image_id}", "/v2/images/1", True),
        ("/v2/images/{image_id}", "/v2/images/1/file", False),
        ("/v2/images/{image_id}/file", "/v2/images/1/file", True),
        ("/v2/images/**", "/v2/images/1/file", True),
        ("**", "/anything/at/all", True),
        ("/v2/ima.es", "/v2/images", False),
        ("/v2/image[s]", "/v2/images", False),
        ("/v2/{", "/v2/{", True),
        ("/v2/images", "/v2/images\n", False),
        ("/v2/images}", "/v2/images}", True),
        ("/v2/images}", "anything", False),
        ("**a**b", "/v2/ab/a", False),
        ("**/*/{x}/file", "/v2/images/1/file", True),
        ("*s/*/*le", "/v2/images/1/file", False),
        ("/v*/*s/*/*le", "/v2/images/1/file", True),
        ("***", "/v2", True),
        ("/v2/{a}{b}", "/v2/1", False),
    ],
)
def test_a_path_of_an_access_rule_covers_what_keystone_says_that_it_does(pattern: str, path: str, *, allowed: bool) -> None:
    assert AccessRule("image", "GET", pattern).allows("GET", path) is allowed


@pytest.mark.parametrize("part", ["**a", "{x}a", "*a", "{x}"])
def test_no_pattern_that_a_user_can_write_keeps_the_server_from_its_work(part: str) -> None:
    """A regular expression would try for longer than anybody waits."""
    assert not AccessRule("image", "GET", "/" + part * 60).allows("GET", f"/{'a' * 4000}/b"), part


def test_an_access_rule_is_for_one_service_and_one_method() -> None:
    assert not AccessRule("compute", "GET", "**").allows("GET", "/v2/images")
    assert not AccessRule("image", "GET", "**").allows("POST", "/v2/images")


def test_limits_are_not_asked_for_with_a_credential_that_is_good_for_one_project_only() -> None:
    chosen = {"url": "http://127.0.0.1:5000/v3", "application_credential_id": "x", "application_credential_secret": "y"}

    with pytest.raises(StartError, match=r"Set keystone[.]username and keystone[.]password, of a user with the role reader on the system"):
        UnifiedLimits(load(None, {"identity": "keystone", "keystone": chosen}, {}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"url": ""}, "keystone.url = ''"),
        ({"url": "keystone:5000"}, "keystone.url = 'keystone:5000'"),
        ({"url": "http://keystone:5000"}, "keystone.url"),
        ({"password": ""}, "keystone.password is missing"),
        ({"application_credential_id": "x"}, "keystone.application_credential_secret is missing"),
        ({"memcached": ["here"], "memcached_secret": "x"}, "keystone.memcached: 'here'"),
        ({"memcached": ["here:11211"]}, "keystone.memcached_secret is missing"),
        ({"cache_s": "long"}, "keystone.cache_s"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    settings = {"url": "http://keystone.example.org:5000/v3", "password": "hush"} | changes

    with pytest.raises(StartError) as refused:
        Keystone(load(None, {"data": str(tmp_path), "identity": "keystone", "keystone": settings}, {}))

    assert named in str(refused.value)
    assert "hush" not in str(refused.value)
