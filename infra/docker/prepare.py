"""What must be there before the services of docker-compose.yml can work; each is safe to run at every start.

prepare.py users     the file with the password of Airflow's user `admin`
prepare.py bucket    the lake's bucket
prepare.py store     the lookup store's tables, functions and roles, and the logins `loader` and `reader`
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from urllib.parse import urlparse

LOGINS = {"loader": "lookalike_loader", "reader": "lookalike_reader"}
"""Login → the role of sql/roles.sql that it is a member of; its password is the variable STORE_<LOGIN>_PASSWORD."""
READ_LIMIT = "30s"
"""Longest that a statement runs in the store's database: ten times a look-up that orders a million products."""


def users() -> None:
    """Write what AIRFLOW_ADMIN_PASSWORD says to the file that Airflow's simple auth manager reads."""
    file = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}) + "\n")


def bucket() -> None:
    """Create the bucket of LOOKALIKE_LAKE unless it is there."""
    import boto3
    from botocore.exceptions import ClientError

    s3, name = boto3.client("s3"), urlparse(os.environ["LOOKALIKE_LAKE"]).netloc
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        s3.create_bucket(Bucket=name)


def store() -> None:
    """Prepare the store at LOOKALIKE_STORE as its superuser, and give the logins the passwords of the environment.

    Nobody else may connect to the database, and both logins are members of one role each, so owners of nothing. A
    statement ends after READ_LIMIT, whoever's it is, as a role's setting does not reach its members; whoever needs
    longer sets another for the login or the session, as publishing does.
    """
    from psycopg import sql

    from infra.store import connect

    with connect(os.environ["LOOKALIKE_STORE"], Path(), prepares=True) as connection, connection.transaction():
        database = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        limit = sql.SQL("ALTER DATABASE {} SET statement_timeout = {}").format(database, READ_LIMIT)
        connection.execute(limit)
        for login, role in LOGINS.items():
            names = {"login": sql.Identifier(login), "role": sql.Identifier(role), "database": database}
            # Hashed here: a server that logs its statements shall not log a password.
            given = os.environ[f"STORE_{login.upper()}_PASSWORD"].encode()
            password = connection.pgconn.encrypt_password(given, login.encode(), b"scram-sha-256").decode()
            if connection.execute("SELECT to_regrole(%s)", (login,)).fetchone() == (None,):
                connection.execute(sql.SQL("CREATE ROLE {login}").format(**names))
            connection.execute(
                sql.SQL("ALTER ROLE {login} LOGIN PASSWORD {password}").format(password=sql.Literal(password), **names)
            )
            connection.execute(sql.SQL("GRANT {role} TO {login}").format(**names))
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {database} TO {login}").format(**names))


if __name__ == "__main__":
    {"users": users, "bucket": bucket, "store": store}[sys.argv[1]]()
