"""`ikon db` and the schema on three databases: made by migrations, equal to the tables in the code, refused when it is not."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from ikon.db import images
from ikon.db.connect import make_engine
from ikon.db.tables import SCHEMA, metadata
from tests.unit.cli.run import ikon
from tests.unit.model.test_listing import IMAGE

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
