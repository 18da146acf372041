"""Makes a Keystone database with everything the fixtures want, in one process (keystone-manage needs four).

keystone_make.py CONF PUBLIC_URL PASSWORD GLANCE_URL SWIFT_URL
"""

import os
import sys
import uuid

conf, url, password, glance_url, swift_url = sys.argv[1:6]
os.environ["OS_KEYSTONE_CONFIG_DIR"] = os.path.dirname(conf)

import keystone.conf  # noqa: E402
from oslo_log import log  # noqa: E402

keystone.conf.configure()  # also registers the logging options
CONF = keystone.conf.CONF
if "log_config_append" not in CONF:
    log.register_options(CONF)
CONF(["--config-file", conf], project="keystone", default_config_files=[conf])


from keystone.cmd import bootstrap  # noqa: E402
from keystone.common import fernet_utils, provider_api, sql  # noqa: E402
from keystone.common.sql import upgrades  # noqa: E402
from sqlalchemy import event, text  # noqa: E402
from sqlalchemy.engine import Engine  # noqa: E402


@event.listens_for(Engine, "connect")
def no_fsync(connection, record):
    connection.execute("PRAGMA synchronous=OFF")


os.umask(0o077)
sql.initialize()
for repo, keys, group in (
    (CONF.fernet_tokens.key_repository, CONF.fernet_tokens.max_active_keys, "fernet_tokens"),
    (CONF.credential.key_repository, 3, "credential"),
):
    futils = fernet_utils.FernetUtils(repo, keys, group)
    futils.create_key_directory(None, None)
    futils.initialize_key_repository(None, None)

upgrades.offline_sync_database_to_version()

boot = bootstrap.Bootstrapper()  # loads the backends
boot.admin_username = "admin"
boot.admin_password = password
boot.project_name = "admin"
boot.admin_role_name = "admin"
boot.service_name = "keystone"
boot.region_id = "RegionOne"
boot.public_url = boot.internal_url = boot.admin_url = url
boot.immutable_roles = True
boot.bootstrap()

api = provider_api.ProviderAPIs


def ident():
    return uuid.uuid4().hex


def role(name):
    for r in api.role_api.list_roles():
        if r["name"] == name:
            return r["id"]
    new = {"id": ident(), "name": name}
    return api.role_api.create_role(new["id"], new)["id"]


def project(name, project_id=None):
    p = {"id": project_id or ident(), "name": name, "domain_id": "default", "enabled": True, "description": "", "is_domain": False}
    return api.resource_api.create_project(p["id"], p)["id"]


def user(name):
    return api.identity_api.create_user({"name": name, "password": password, "domain_id": "default", "enabled": True})["id"]


def grant(u, p, *names):
    for n in names:
        api.assignment_api.create_grant(role(n), user_id=u, project_id=p)


def service(kind, name, address):
    s = {"id": ident(), "type": kind, "name": name, "enabled": True}
    api.catalog_api.create_service(s["id"], s)
    for interface in ("public", "internal", "admin"):
        e = {"id": ident(), "interface": interface, "url": address, "service_id": s["id"], "region_id": "RegionOne", "enabled": True}
        api.catalog_api.create_endpoint(e["id"], e)


def main():
    swift_op = role("swiftoperator")
    assert swift_op
    prj = {n: project(n) for n in ("service", "alpha", "beta")}
    glance = user("glance")
    grant(glance, prj["service"], "admin", "service")
    api.assignment_api.create_system_grant_for_user(glance, role("reader"))  # sees the limits of all projects
    grant(user("swift"), prj["service"], "admin", "service")
    grant(user("alice"), prj["alpha"], "member", "swiftoperator")
    grant(user("bob"), prj["beta"], "member")
    grant(user("rita"), prj["alpha"], "reader")
    if projects := os.environ.get("PROJECTS", "").split():
        member, admin = user("bench"), user("bench-admin")
        for name in projects:
            grant(member, project(name, name), "member")
            grant(admin, name, "admin")
    service("image", "glance", glance_url)
    if swift_url:
        service("object-store", "swift", swift_url)
    # else each user's first token of today writes this, and of several at once SQLite refuses all but one
    with sql.session_for_write() as session:
        session.execute(text("UPDATE user SET last_active_at = date('now')"))


main()
