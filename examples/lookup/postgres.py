"""The same users in PostgreSQL: ``python -m examples.lookup.postgres`` lays them there.

LOOKUP_DATABASE_URL says where it is, as postgresql://user:password@host/database.
"""

import os
import threading
from collections.abc import Collection

import psycopg

URL = os.environ["LOOKUP_DATABASE_URL"]
N_USERS = 100_000

_local = threading.local()


def find(ids: Collection[int]) -> dict[int, str]:
    """The names of the users with these ids, as far as there are such."""
    # This IN takes one parameter, so that the statement is prepared once.
    query = "SELECT id, name FROM lookup_users WHERE id = ANY(%s)"
    return dict(_connection().execute(query, [list(ids)]).fetchall())


def _connection() -> "psycopg.Connection[tuple[int, str]]":
    """The connection of this thread, a new one if the last was lost."""
    if not hasattr(_local, "connection") or _local.connection.closed:
        _local.connection = psycopg.connect(URL, autocommit=True)
    connection: psycopg.Connection[tuple[int, str]] = _local.connection
    return connection


def make() -> None:
    with psycopg.connect(URL) as connection:
        connection.execute(
            "CREATE TABLE lookup_users (id integer PRIMARY KEY, name text NOT NULL)"
        )
        connection.execute(
            "INSERT INTO lookup_users SELECT n, 'user ' || n "
            "FROM generate_series(1, %s) AS n",
            [N_USERS],
        )
        connection.execute("ANALYZE lookup_users")


if __name__ == "__main__":
    make()
