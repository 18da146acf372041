"""Keystone's WSGI application under waitress (one process, threads).   keystone_serve.py CONF ADDR PORT"""

import os
import sys

conf, addr, port = sys.argv[1:4]
os.environ["OS_KEYSTONE_CONFIG_DIR"] = os.path.dirname(conf)
os.environ["OS_KEYSTONE_CONFIG_FILES"] = conf
sys.argv = ["keystone"]
from keystone.server.wsgi import initialize_public_application  # noqa: E402
from sqlalchemy import event  # noqa: E402
from sqlalchemy.engine import Engine  # noqa: E402
from waitress import serve  # noqa: E402


@event.listens_for(Engine, "connect")
def fast_and_patient(connection, record):
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA busy_timeout=60000")


@event.listens_for(Engine, "before_cursor_execute", retval=True)
def one_at_a_time(connection, cursor, statement, parameters, context, executemany):
    """A transaction that reads first and then writes fails on SQLite when another has written in between: it begins as a writer."""
    return ("BEGIN IMMEDIATE" if statement == "BEGIN" else statement), parameters


serve(initialize_public_application(), host=addr, port=int(port), threads=int(os.environ.get("THREADS", "8")), ident=None)
