"""The commands themselves: help, completion, and one clear line where a command cannot do its work."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ikon.cli import doctor as doctor_module
from ikon.cli import root
from ikon.db.lease import lock_file
from tests.faults.world import Ikon
from tests.services.servers import free_port
from tests.unit.cli.run import IKON, ikon, surroundings

pytestmark = pytest.mark.slow


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, groups included."""
    yield words
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name)


def test_every_command_has_help() -> None:
    for words in commands(root):
        said = CliRunner().invoke(root, [*words, "--help"])
        assert said.exit_code == 0, said.output
        assert said.output.startswith("Usage:")
        assert len(said.output.splitlines()) > 4, f"ikon {' '.join(words)} does not say what it does"


def test_the_first_help_names_every_group() -> None:
    said = ikon("--help")

    assert said.returncode == 0
    for name in ("serve", "worker", "db", "image", "trash", "user", "jobs", "why", "periodic", "doctor", "completion"):
        assert f"\n  {name} " in said.stdout


def test_bash_completes_commands() -> None:
    script = ikon("completion", "bash").stdout
    asked = 'COMP_WORDS=(ikon d); COMP_CWORD=1; _ikon_completion ikon; printf "%s\\n" "${COMPREPLY[@]}"'
    environment = surroundings(PATH=f"{IKON.parent}:{os.environ['PATH']}")

    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], env=environment, capture_output=True, text=True, check=False)

    assert sorted(done.stdout.split()) == ["db", "doctor"], done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_served(shell: str) -> None:
    assert "_IKON_COMPLETE" in ikon("completion", shell).stdout


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        (["--identity", "everyone"], {}, ["identity = 'everyone'", "--identity", "Allowed: none, headers"]),
        (["--workers", "2"], {}, ["workers = 2", "SQLite is served by one process"]),
        (["--listen", "here"], {}, ["listen = 'here'", "HOST:PORT"]),
        (["--listen", "0.0.0.0:9292"], {}, ["everyone who can connect is admin", 'identity = "keystone", "headers"']),
        ([], {"IKON_IDENTITY": "everyone"}, ["IKON_IDENTITY='everyone'"]),
        ([], {"IKON_NONSENSE": "1"}, ["IKON_NONSENSE is no setting"]),
        (["--config", "/nowhere.toml"], {}, ["cannot read /nowhere.toml"]),
        (["--database", "mysql+pymysql://u:geheim@127.0.0.1:1/x"], {}, ["Can't connect", "Start the database"]),
        (["--database", "postgresql+psycopg://u:geheim@127.0.0.1:1/x"], {}, ["Connection refused", "Start the database"]),
    ],
)
def test_serve_ends_with_2_and_one_line(tmp_path: Path, args: list[str], env: dict[str, str], words: list[str]) -> None:
    done = ikon("serve", "--data", tmp_path / "data", *args, env=env)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ikon: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "geheim" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_serve_refuses_a_store_that_it_cannot_use_before_it_says_that_it_serves(tmp_path: Path) -> None:
    config = tmp_path / "ikon.toml"
    config.write_text('[stores.one]\ntype = "file"\npath = "/proc/nowhere"\n')

    done = ikon("serve", "--data", tmp_path / "data", "--config", config)

    assert (done.returncode, done.stdout) == (2, "")
    assert "stores.one.path = '/proc/nowhere'" in done.stderr


def test_serve_names_a_port_that_is_in_use(tmp_path: Path) -> None:
    with Ikon(tmp_path / "first") as server:
        done = ikon("serve", "--data", tmp_path / "second", "--listen", f"127.0.0.1:{server.port}")

    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert "--listen" in done.stderr


def test_a_second_server_on_the_data_directory_refuses_and_says_why(tmp_path: Path) -> None:
    with Ikon(tmp_path / "data") as server:
        done = ikon("serve", "--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}")
        upgrade = ikon("db", "upgrade", "--data", tmp_path / "data")
        still = server.call("GET", "/v2/images").status

    assert done.returncode == upgrade.returncode == 2
    assert f"another server is running on {tmp_path / 'data'}" in done.stderr
    assert f"another server is running on {tmp_path / 'data'}" in upgrade.stderr
    assert still == 200


def test_image_copy_without_a_server_says_what_helps(tmp_path: Path) -> None:
    done = ikon("image", "copy", "--data", tmp_path, "an-image", "two")

    assert done.returncode == 1
    assert done.stderr == f"Error: No server is running on {tmp_path}. Start it with: ikon serve --data {tmp_path}\n"


def test_image_copy_puts_an_image_into_a_second_store(tmp_path: Path) -> None:
    with Ikon(tmp_path / "data") as server:
        image = server.create()
        assert server.upload(image, b"x" * 100_000).status == 204
        done = ikon("image", "copy", "--data", tmp_path / "data", image, "two")
        again = ikon("image", "copy", "--data", tmp_path / "data", image, "two")
        stores = server.show(image)["stores"]

    assert done.returncode == 0, done.stderr
    assert sorted(stores.split(",")) == ["one", "two"]
    assert again.returncode == 1
    assert "already present at store 'two'" in again.stderr


def test_users_are_kept_by_the_running_server_whatever_its_identity(tmp_path: Path) -> None:
    with Ikon(tmp_path / "data") as server:
        command = [IKON, "user", "add", "alice", "--project", "home", "--role", "reader", "--role", "service", "--password-stdin"]
        added = subprocess.run([*command, "--data", server.directory], input="secret", env=surroundings(), capture_output=True, text=True)
        listed = ikon("user", "list", "--data", server.directory)
        removed = ikon("user", "remove", "--data", server.directory, "alice")
        empty = ikon("user", "list", "--data", server.directory)

    assert added.stdout == "User alice may work in project home as reader, service\n", added.stderr
    assert listed.stdout == "alice\thome\treader,service\n"
    assert removed.stdout == "User alice is removed\n"
    assert (empty.returncode, empty.stdout) == (0, "")


@pytest.mark.parametrize("words", [["list"], ["remove", "alice"]])
def test_users_without_a_server_say_what_helps(tmp_path: Path, words: list[str]) -> None:
    done = ikon("user", *words, "--data", tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: No server is running on {tmp_path}. Start it with: ikon serve --data {tmp_path}\n"


def test_a_data_directory_with_a_long_path_works(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)

    with Ikon(directory) as server:
        image = server.create()
        assert server.upload(image, b"x" * 1000).status == 204
        done = ikon("image", "copy", "--data", directory, image, "two")

    assert done.returncode == 0, done.stderr


def findings(*args: object, env: dict[str, str] | None = None) -> tuple[int, str]:
    done = ikon("doctor", *args, env=env)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_doctor_finds_nothing_wrong_with_a_sound_server(tmp_path: Path) -> None:
    with Ikon(tmp_path / "data"):
        code, said = findings("--data", tmp_path / "data")

    assert code == 0, said
    assert "WRONG" not in said
    assert f"{tmp_path}/data/ikon.db at schema" in said


def test_doctor_leaves_no_trace_where_no_server_has_been(tmp_path: Path) -> None:
    code, said = findings("--data", tmp_path / "data")

    assert code == 1
    assert "Start the server once" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("url", ["mysql+pymysql://u:geheim@127.0.0.1:1/x", "postgresql+psycopg://u:geheim@127.0.0.1:1/x"])
def test_doctor_finds_a_database_that_is_away(tmp_path: Path, url: str) -> None:
    code, said = findings("--data", tmp_path, env={"IKON_DATABASE": url})

    assert code == 1
    assert "WRONG  database" in said
    assert "-> Start the database" in said
    assert "geheim" not in said


def test_doctor_finds_an_old_schema(tmp_path: Path) -> None:
    (tmp_path / "ikon.db").touch()

    code, said = findings("--data", tmp_path)

    assert code == 1
    assert "at schema none" in said
    assert "-> Run: ikon db upgrade" in said


def test_doctor_finds_a_store_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ikon("db", "upgrade", "--data", tmp_path).returncode == 0
    store = tmp_path / "images"
    store.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(store))  # root may write everywhere
    for name in [name for name in os.environ if name.startswith("IKON_")]:
        monkeypatch.delenv(name)

    said = CliRunner().invoke(root, ["doctor", "--data", str(tmp_path)])

    assert said.exit_code == 1
    assert f"WRONG  stores: config: stores.local.path = '{store}': not writable" in said.output
    assert "Name a directory that this user can write to" in said.output


def test_doctor_finds_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ikon("db", "upgrade", "--data", tmp_path).returncode == 0
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(doctor_module, "LEAST_FREE", 2 * free)

    said = CliRunner().invoke(root, ["doctor", "--data", str(tmp_path)])

    assert said.exit_code == 1
    assert "WRONG  data" in said.output
    assert "WRONG  store local" in said.output
    assert "-> Make room" in said.output


def test_doctor_finds_that_everyone_is_admin(tmp_path: Path) -> None:
    assert ikon("db", "upgrade", "--data", tmp_path).returncode == 0

    code, said = findings("--data", tmp_path, env={"IKON_NONE_BEYOND_LOOPBACK": "true", "IKON_LISTEN": "0.0.0.0:9292"})

    assert code == 1
    assert "WRONG  identity" in said


@pytest.mark.parametrize(
    ("listen", "proxies", "wrong"),
    [("127.0.0.1:9292", "", False), ("0.0.0.0:9292", "", True), ("0.0.0.0:9292", "10.0.0.1", False), ("[::1]:9292", "", False)],
)
def test_doctor_finds_passwords_that_travel_in_clear(tmp_path: Path, listen: str, proxies: str, wrong: bool) -> None:
    assert ikon("db", "upgrade", "--data", tmp_path).returncode == 0
    env = {"IKON_IDENTITY": "users", "IKON_LISTEN": listen, "IKON_TRUSTED_PROXIES": proxies}

    code, said = findings("--data", tmp_path, env=env)

    assert code == 1  # nobody could log in
    assert "WRONG  users: there are none\n       -> Add one: ikon user add" in said
    assert ("WRONG  identity: users, on 0.0.0.0:9292 without TLS" in said) == wrong
    assert ("ok     identity: users" in said) != wrong


def test_doctor_is_content_where_somebody_can_log_in(tmp_path: Path) -> None:
    with Ikon(tmp_path / "data") as server:
        new = {"name": "alice", "project": "home", "password": "secret", "roles": ["member"]}
        assert server.call("POST", "/ikon/v1/users", json.dumps(new).encode()).status == 204
        code, said = findings("--data", tmp_path / "data", env={"IKON_IDENTITY": "users"})

    assert code == 0, said
    assert "ok     users: there are some" in said


def test_an_upgrade_of_sqlite_waits_for_no_server(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    held = lock_file(tmp_path / "run" / "lock")

    done = ikon("db", "upgrade", "--data", tmp_path)
    os.close(held)
    after = ikon("db", "upgrade", "--data", tmp_path)

    assert done.returncode == 2
    assert "another server is running" in done.stderr
    assert after.returncode == 0, after.stderr
