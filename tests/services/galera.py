"""A Galera cluster for tests: two nodes, each of which can be killed, stood still and brought back, and an arbitrator."""

import contextlib
from collections.abc import Iterator

import pymysql

from tests.services.servers import Server


class Galera(Server):
    """Two nodes, 1 and 2, as a context manager. `start` brings back whichever is away; `url`, `execute` and `new_database` use node 1."""

    def __init__(self) -> None:
        super().__init__("galera", ports=9)

    def url_of(self, node: int, database: str) -> str:
        """The URL of a database at one node."""
        return f"mysql+pymysql://ikon:secret@127.0.0.1:{self.port + node - 1}/{database}"

    def at(self, node: int) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        """A connection to one node, which commits each statement by itself."""
        return pymysql.connect(host="127.0.0.1", port=self.port + node - 1, user="ikon", password="secret", autocommit=True)

    def value(self, node: int, query: str) -> object:
        """The last column of the first row that a query finds at a node."""
        with self.at(node) as conn, conn.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
            return row[-1] if row else None

    def kill_node(self, node: int) -> None:
        """End one node at once, as a crash does."""
        self.end_at_once(int((self.directory / f"galera{node}.pid").read_text()))

    @contextlib.contextmanager
    def held_back(self, node: int) -> Iterator[None]:
        """Meanwhile a node takes part, and applies nothing of what others commit."""
        with self.at(node) as conn, conn.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")
            try:
                yield
            finally:
                cursor.execute("UNLOCK TABLES")
