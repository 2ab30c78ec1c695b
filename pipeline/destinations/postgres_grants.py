"""Gives a new schema the rights that the old one has: of the schema, its tables, views and columns, and defaults.

Roles of objects that only the new schema has get what `ALTER DEFAULT PRIVILEGES IN SCHEMA` says.
"""

import psycopg

from pipeline.destinations.postgres_session import Session, described, quoted

KINDS = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES"}
"""Objects of default privileges, by their letter in pg_default_acl."""
_GRANTEE = "CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END"


def copy_defaults(session: Session, old: str, new: str) -> list[str]:
    """Copy the default privileges of a schema, before objects are created. Returns what could not be copied."""
    entries = session.run(
        f"""SELECT quote_ident(pg_get_userbyid(d.defaclrole)), d.defaclobjtype::text, g.privilege_type,
                   {_GRANTEE}, g.is_grantable
            FROM pg_default_acl AS d JOIN pg_namespace AS n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) AS g
            WHERE n.nspname = %s""",
        [old],
    )
    notes: list[str] = []
    for role, kind, privilege, grantee, grantable in entries:
        option = " WITH GRANT OPTION" if grantable else ""
        statement = (
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} IN SCHEMA {quoted(new)} "
            f"GRANT {privilege} ON {KINDS.get(kind, 'TABLES')} TO {grantee}{option}"
        )
        notes += _tried(session, statement, f"default privileges of role {role}")
    return notes


def copy_grants(session: Session, old: str, new: str) -> list[str]:
    """Copy the rights of a schema, its tables and views, and their columns. Returns what could not be copied."""
    of_schema = session.run(
        f"""SELECT g.privilege_type, {_GRANTEE}, g.is_grantable
            FROM pg_namespace AS n, aclexplode(n.nspacl) AS g
            WHERE n.nspname = %s AND g.grantee <> n.nspowner""",
        [old],
    )
    notes: list[str] = []
    for privilege, grantee, grantable in of_schema:
        statement = f"GRANT {privilege} ON SCHEMA {quoted(new)} TO {grantee}{_option(grantable)}"
        notes += _tried(session, statement, f"rights of {grantee}")
    of_tables = session.run(
        f"""SELECT c.relname, NULL, g.privilege_type, {_GRANTEE}, g.is_grantable
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS g
            WHERE n.nspname = %s AND c.relkind IN ('r', 'v') AND g.grantee <> c.relowner
            UNION ALL
            SELECT c.relname, a.attname, g.privilege_type, {_GRANTEE}, g.is_grantable
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped, aclexplode(a.attacl) AS g
            WHERE n.nspname = %s AND g.grantee <> c.relowner""",
        [old, old],
    )
    there = set(
        session.run(
            """SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 WHERE n.nspname = %s""",
            [new],
        )
    )
    tables = {table for table, _ in there}
    for table, column, privilege, grantee, grantable in of_tables:
        if table not in tables or (column is not None and (table, column) not in there):
            continue
        what = f"{privilege} ({quoted(column)})" if column is not None else privilege
        statement = f"GRANT {what} ON {quoted(new)}.{quoted(table)} TO {grantee}{_option(grantable)}"
        notes += _tried(session, statement, f"rights of {grantee}")
    return notes


def _option(grantable: bool) -> str:
    return " WITH GRANT OPTION" if grantable else ""


def _tried(session: Session, statement: str, what: str) -> list[str]:
    """Execute a statement in a savepoint; returns a note if it is not allowed."""
    try:
        with session.transaction():
            session.run(statement)
    except psycopg.Error as error:
        if session.connection.closed or not (error.sqlstate or "").startswith("42"):
            raise
        return [f"{what} could not be kept: {described(error)}"]
    return []
