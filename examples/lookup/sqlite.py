"""100,000 users in an SQLite file, which is made when there is none yet."""

import os
import sqlite3
import threading
from collections.abc import Collection
from pathlib import Path

FILE = Path(__file__).with_name("users.sqlite")
N_USERS = 100_000

_local = threading.local()


def find(ids: Collection[int]) -> dict[int, str]:
    """The names of the users with these ids, as far as there are such."""
    marks = ",".join("?" * len(ids))
    query = f"SELECT id, name FROM users WHERE id IN ({marks})"
    return dict(_connection().execute(query, tuple(ids)))


def _connection() -> sqlite3.Connection:
    """The connection of this thread."""
    if not hasattr(_local, "connection"):
        _local.connection = sqlite3.connect(FILE)
    connection: sqlite3.Connection = _local.connection
    return connection


def make() -> None:
    # Under its name there is a whole file or none, whoever else makes it now.
    new = FILE.with_suffix(f".{os.getpid()}")
    connection = sqlite3.connect(new)
    connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
    rows = ((n, f"user {n}") for n in range(1, N_USERS + 1))
    connection.executemany("INSERT INTO users VALUES (?, ?)", rows)
    connection.commit()
    connection.close()
    new.replace(FILE)


if not FILE.exists():
    make()
