"""`ikon db` and the schema on three databases: made by migrations, equal to the tables in the code, refused when it is not."""

import sqlite3
import subprocess
import threading
from pathlib import Path

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from ikon.db import images, schema
from ikon.db.connect import make_engine
from ikon.db.tables import SCHEMA, metadata
from tests.services.servers import Server
from tests.unit.cli.run import IKON, ikon, surroundings
from tests.unit.model.test_listing import IMAGE
from tests.wire.server import on_database

pytestmark = pytest.mark.slow


def test_an_empty_database_is_upgraded_once_and_then_found_sound(tmp_path: Path, database_url: str) -> None:
    options = ("--data", tmp_path, "--database", database_url)

    before = ikon("db", "check", *options)
    first = ikon("db", "upgrade", *options)
    second = ikon("db", "upgrade", *options)
    after = ikon("db", "check", *options)

    assert before.returncode == 1
    assert f"nothing: the database is empty; this version needs {SCHEMA}" in before.stdout
    assert [done.returncode for done in (first, second, after)] == [0, 0, 0], first.stderr + second.stderr + after.stderr
    assert second.stdout == f"The schema is at {SCHEMA}\n"
    assert after.stdout == f"The schema is at {SCHEMA}; this version needs {SCHEMA}\n"


def test_the_migrated_schema_is_that_of_the_tables(tmp_path: Path, database_url: str) -> None:
    assert ikon("db", "upgrade", "--data", tmp_path, "--database", database_url).returncode == 0

    with make_engine(database_url).connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, metadata)
        made = describe(conn)
    other = sa.create_engine("sqlite://")
    if database_url.startswith("sqlite"):
        metadata.create_all(other)
        with other.connect() as conn:
            assert made == describe(conn)

    assert differences == []


def describe(conn: sa.Connection) -> dict[str, object]:
    """What compare_metadata does not look at: keys, indexes and NOT NULL of every table."""
    look = sa.inspect(conn)
    return {
        table: (
            [(column["name"], column["nullable"]) for column in look.get_columns(table)],
            look.get_pk_constraint(table)["constrained_columns"],
            sorted((str(index["name"]), *index["column_names"]) for index in look.get_indexes(table)),
            sorted(str(unique["name"]) for unique in look.get_unique_constraints(table)),
        )
        for table in look.get_table_names()
        if table != "alembic_version"
    }


def test_sqlite_gets_its_schema_at_the_first_start_and_no_other(tmp_path: Path) -> None:
    database = tmp_path / "ikon.db"
    conn = sqlite3.connect(database)
    conn.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    conn.execute("INSERT INTO alembic_version VALUES ('0000')")
    conn.commit()
    conn.close()

    done = ikon("serve", "--data", tmp_path)

    assert done.returncode == 2
    assert f"has schema 0000, this version needs {SCHEMA}. Run: ikon db upgrade" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mariadb_url", "postgres_url"])
def test_a_server_refuses_an_empty_or_old_schema_and_names_the_command(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(kind)

    empty = ikon("serve", "--data", tmp_path, "--database", url)
    assert ikon("db", "upgrade", "--data", tmp_path, "--database", url).returncode == 0
    with make_engine(url).begin() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    old = ikon("serve", "--data", tmp_path, "--database", url)
    doctor = ikon("doctor", "--data", tmp_path, env={"IKON_DATABASE": url})

    assert (empty.returncode, old.returncode, doctor.returncode) == (2, 2, 1)
    assert f"is empty, this version needs {SCHEMA}. Run: ikon db upgrade" in empty.stderr
    assert f"has schema 0000, this version needs {SCHEMA}. Run: ikon db upgrade" in old.stderr
    assert "-> Run: ikon db upgrade" in doctor.stdout
    assert "secret" not in empty.stderr + old.stderr + doctor.stdout
    assert empty.stderr.count("\n") == old.stderr.count("\n") == 1


def test_the_index_of_lists_is_compared_and_made_anew(tmp_path: Path, database_url: str) -> None:
    options = ("--data", tmp_path, "--database", database_url)
    assert ikon("db", "upgrade", *options).returncode == 0
    with make_engine(database_url).begin() as conn:
        conn.execute(sa.insert(metadata.tables["terms"]).values(t=1, k=1))

    wrong = ikon("db", "check", "--lists", *options)
    mended = ikon("db", "check", "--rebuild", "--lists", *options)

    assert (wrong.returncode, mended.returncode) == (1, 0), wrong.stderr + mended.stderr
    assert "0 rows too few and 1 too many for 0 images\nRun: ikon db check --rebuild\n" in wrong.stdout
    assert "0 rows too few and 0 too many for 0 images\n" in mended.stdout


def test_an_upgrade_makes_the_index_of_images_that_were_there_before(tmp_path: Path, database_url: str) -> None:
    options = ("--data", tmp_path, "--database", database_url)
    assert ikon("db", "upgrade", *options).returncode == 0
    with make_engine(database_url).begin() as conn:
        images.insert(conn, IMAGE)
        for table in ("terms", "sorts", "secrets"):
            conn.execute(sa.delete(metadata.tables[table]))

    assert ikon("db", "upgrade", *options).returncode == 0

    assert "0 rows too few and 0 too many for 1 images" in ikon("db", "check", "--lists", *options).stdout


# Upgrades that meet, break off, or come too late


@pytest.mark.parametrize("kind", ["mariadb_url", "postgres_url"])
def test_of_two_upgrades_one_waits_for_the_other(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(kind)
    command = [IKON, "db", "upgrade", "--data", tmp_path, "--database", url]
    at_work, go = threading.Event(), threading.Event()

    def hold() -> None:
        with make_engine(url).connect() as conn:
            schema.wait_turn(conn, lambda: None)
            at_work.set()
            go.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    at_work.wait(60)
    both = [subprocess.Popen(command, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [each.stderr.readline() for each in both if each.stderr]
    go.set()
    other.join()

    assert said == ["Another upgrade is at work: this one waits for its end\n"] * 2
    assert [each.communicate(timeout=60) for each in both] == [(f"The schema is at {SCHEMA}\n", "")] * 2
    assert ikon("db", "check", "--data", tmp_path, "--database", url).stdout == f"The schema is at {SCHEMA}; this version needs {SCHEMA}\n"


def test_an_upgrade_of_mariadb_that_broke_off_is_repeated(tmp_path: Path, mariadb_url: str) -> None:
    """There a table that was changed stays changed, whatever becomes of the rest."""
    options = ("--data", tmp_path, "--database", mariadb_url)
    assert ikon("db", "upgrade", *options).returncode == 0
    with make_engine(mariadb_url).begin() as conn:
        made = describe(conn)

    for revision in ("0001", f"{int(SCHEMA) - 1:04}"):
        with make_engine(mariadb_url).begin() as conn:
            conn.execute(sa.text(f"UPDATE alembic_version SET version_num = '{revision}'"))
        again = ikon("db", "upgrade", *options)
        assert again.returncode == 0, again.stderr

    with make_engine(mariadb_url).begin() as conn:
        assert describe(conn) == made


def test_a_schema_that_a_newer_ikon_made_is_left_alone(tmp_path: Path, database_url: str) -> None:
    options = ("--data", tmp_path, "--database", database_url)
    assert ikon("db", "upgrade", *options).returncode == 0
    with make_engine(database_url).begin() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    told = [ikon("db", "upgrade", *options), ikon("serve", *options), ikon("db", "check", *options)]

    assert [each.returncode for each in told] == [2, 2, 1]
    assert all("It was made by a newer Ikon: install that version here too" in each.stderr + each.stdout for each in told), told


# Rights


def user_of(mariadb: Server, url: str, rights: str) -> str:
    """The URL of a database for a new user who may do so much in it, and nothing elsewhere."""
    database = url.rsplit("/", 1)[1]
    with pymysql.connect(unix_socket=str(mariadb.directory / "sock"), user="root") as root, root.cursor() as cursor:
        cursor.execute(f"CREATE USER '{database}'@'127.0.0.1' IDENTIFIED BY 'secret'")
        cursor.execute(f"GRANT {rights} ON `{database}`.* TO '{database}'@'127.0.0.1'")
    return url.replace("ikon:secret", f"{database}:secret")


def test_on_mariadb_rights_in_the_database_itself_are_enough(tmp_path: Path, mariadb: Server, mariadb_url: str) -> None:
    url = user_of(mariadb, mariadb_url, "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP")

    upgraded = ikon("db", "upgrade", "--data", tmp_path, "--database", url)
    checked = ikon("db", "check", "--lists", "--data", tmp_path, "--database", url)
    with on_database(tmp_path / "server", url) as server:
        image = server.active(b"data")
        assert server.download(image).body == b"data"

    assert (upgraded.returncode, checked.returncode) == (0, 0), upgraded.stderr + checked.stdout + checked.stderr


def test_rights_that_are_lacking_on_mariadb_are_named(tmp_path: Path, mariadb: Server, mariadb_url: str) -> None:
    url = user_of(mariadb, mariadb_url, "SELECT, INSERT, UPDATE, DELETE, ALTER, DROP")

    upgraded = ikon("db", "upgrade", "--data", tmp_path, "--database", url)
    checked = ikon("db", "check", "--data", tmp_path, "--database", url)

    assert (upgraded.returncode, checked.returncode) == (2, 1)
    assert "CREATE command denied" in upgraded.stderr
    assert upgraded.stderr.endswith("Run: ikon db check\n")
    assert "lacks CREATE, INDEX\n-> GRANT CREATE, INDEX ON" in checked.stdout


def test_on_postgresql_owning_the_database_is_enough_and_tables_of_others_are_named(tmp_path: Path, postgres: Server) -> None:
    address = {"host": "127.0.0.1", "port": postgres.port, "autocommit": True}
    with psycopg.connect(**address, dbname="postgres", user="postgres") as admin:
        admin.execute("CREATE ROLE small LOGIN PASSWORD 'secret' NOSUPERUSER NOCREATEDB NOCREATEROLE")
        admin.execute("CREATE DATABASE small OWNER small TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'")
    url = postgres.url("small").replace("ikon:secret", "small:secret")
    options = ("--data", tmp_path, "--database", url)
    try:
        done = [ikon("db", "upgrade", *options), ikon("db", "check", "--lists", *options)]
        with on_database(tmp_path / "server", url) as server:
            assert server.download(server.active(b"data")).body == b"data"
        with psycopg.connect(**address, dbname="small", user="postgres") as admin:
            admin.execute("ALTER TABLE users OWNER TO postgres")
        foreign = ikon("db", "check", *options)
    finally:
        with psycopg.connect(**address, dbname="postgres", user="postgres") as admin:
            admin.execute("DROP DATABASE small WITH (FORCE)")
            admin.execute("DROP ROLE small")

    assert [each.returncode for each in done] == [0, 0], done
    assert foreign.returncode == 1
    assert "small does not own users\n-> ALTER TABLE ... OWNER TO small" in foreign.stdout


def test_tables_that_are_not_as_they_must_be_are_named_with_what_to_do(tmp_path: Path, mariadb_url: str) -> None:
    options = ("--data", tmp_path, "--database", mariadb_url)
    assert ikon("db", "upgrade", *options).returncode == 0
    with make_engine(mariadb_url).begin() as conn:
        conn.execute(sa.text("ALTER TABLE users CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"))
        conn.execute(sa.text("ALTER TABLE secrets DROP PRIMARY KEY"))
        conn.execute(sa.text("ALTER TABLE ids ENGINE = MyISAM"))

    checked = ikon("db", "check", *options)

    assert checked.returncode == 1
    for line in (
        "text: not as it must be in users",
        "primary key: not as it must be in secrets",
        "engine: not as it must be in ids",
    ):
        assert line in checked.stdout, checked.stdout
    assert checked.stdout.count("-> ") == 3
