"""Publishes a night to a schema of PostgreSQL: a new schema is filled, then takes the place of the old one.

The schema has one owner, the data set of a home; the table `nightrecs_publication` says which, and which night it has.
Tables are copied into `<schema>_next_<token>`, each in a transaction of its own. The last transaction holds locks on
all old tables and views while it drops the old schema and gives its name to the new one, so a query of several tables
reads one night, and a reader's transaction keeps the tables that it has read until it ends. The locks are waited for in
short turns below PostgreSQL's `deadlock_timeout`, so that no reader is ended in favour of them.
"""

import re
import secrets
import time
from collections.abc import Callable

import psycopg

from pipeline.config.destinations import PostgresDestination, schema_trouble
from pipeline.core.fault_injection import fault
from pipeline.destinations import postgres_grants, postgres_tables
from pipeline.destinations.errors import NotDelivered, NotNow
from pipeline.destinations.postgres_publication import COLUMNS, DOC, PUBLICATION, Published, damage_of, published_in
from pipeline.destinations.postgres_session import (
    Session,
    address_of,
    connected,
    described,
    is_locked,
    literal,
    quoted,
    settings_of,
)
from pipeline.destinations.published_file import Night, opened, tables_of, views_of

LONGEST_HOLD = 0.4
"""Seconds in which all locks must be had; a reader waits no longer. PostgreSQL looks for deadlocks after 1 s."""
LOCK_SECONDS = 20
"""How long to wait for another publisher of the same schema: a dead one's session ends within that time."""


class Postgres:
    """A schema of a PostgreSQL database as a destination."""

    kind = "postgres"

    def __init__(self, settings: PostgresDestination, dataset: str):
        self.settings, self.dataset = settings, dataset
        self.schema = settings.schema_name or dataset

    @property
    def name(self) -> str:
        """`postgres SHOP_DB_URL shop`."""
        return f"{self.kind} {self.settings.url_env} {self.schema}"

    def address(self) -> str:
        """`host:port/database` and the schema, without credentials. Raises NotDelivered."""
        return f"{address_of(settings_of(self.settings.url_env))} {self.schema}"

    def check(self, home_id: str | None) -> str:
        """Connect and look whether the schema can be published to. Raises NotDelivered; returns what is there."""
        with connected(self.settings.url_env) as session:
            found = self._checked(session, home_id)
        return f"it has night {found.run_id}" if found else "nothing is published there yet"

    def publish(self, night: Night, patience: float, say: Callable[[str], None], alone: bool = False) -> bool:
        """Make the schema that of `night`; false if it is already. Raises NotDelivered.

        `patience`: seconds to wait for readers that hold the old tables. A schema has one night: `alone`.
        """
        with connected(self.settings.url_env) as session:
            self._lock(session)
            before = self._checked(session, night.home_id)
            if before and (before.run_id, before.sha256) == (night.run_id, night.sha256):
                if not (lost := damage_of(session, self.schema, night)):
                    return False
                say(f"it was damaged, and is copied again: {'; '.join(lost)}")
            self._remove_leftovers(session, night.home_id)
            following = self._new_schema(session, night.home_id)
            try:
                notes = self._fill(session, following, night)
                fault("deliver:before_swap")
                notes += self._swap(session, following, night.home_id, patience)
            except NotDelivered:
                _dropped(session, following)
                raise
            except psycopg.Error as error:
                _dropped(session, following)
                raise described(error) from None
            fault("deliver:after_swap")
            for note in notes:
                say(note)
            return True

    def damage(self, night: Night) -> list[str]:
        """What is missing of a night that was copied. Raises NotDelivered if the server can't be asked."""
        with connected(self.settings.url_env) as session:
            return damage_of(session, self.schema, night)

    def remove(self, home_id: str) -> bool:
        """Remove what was published; false if nothing is there. Raises NotDelivered."""
        with connected(self.settings.url_env) as session:
            self._lock(session)
            self._remove_leftovers(session, home_id)
            found = self._checked(session, home_id)
            if found is None:
                return False
            with session.transaction():
                session.run("SET LOCAL lock_timeout = '10s'")
                _drop(session, self.schema, found)
            return True

    def _checked(self, session: Session, home_id: str | None) -> Published | None:
        """What is in the schema; None: nothing. Raises NotDelivered if it is another's, or rights are missing."""
        if trouble := schema_trouble(self.schema):
            raise NotDelivered(f"{trouble} (publish.postgres.schema_name)")
        if not session.value("SELECT has_database_privilege(current_database(), 'CREATE')"):
            raise NotDelivered("the role may not create schemas: GRANT CREATE ON DATABASE … TO the role")
        owned = session.value(
            "SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = %s", [self.schema]
        )
        if owned is None:
            return None
        if not owned:
            raise NotDelivered(f"the schema {self.schema!r} belongs to another role: ALTER SCHEMA … OWNER TO the role")
        found = published_in(session, self.schema)
        if found is None:
            query = (
                "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE nspname = %s"
            )
            if session.value(query, [self.schema]):
                raise NotDelivered(
                    f"the schema {self.schema!r} has tables that nightrecs did not make, or lost its {PUBLICATION}; "
                    "choose another schema_name, or drop it"
                )
            return None
        if (home_id is not None and found.home_id != home_id) or found.dataset != self.dataset:
            raise NotDelivered(
                f"the schema {self.schema!r} belongs to the data set {found.dataset} of the home {found.home_id}; "
                "choose another schema_name, or remove it there first (`nightrecs destinations`)"
            )
        return found

    def _lock(self, session: Session) -> None:
        """Keep other publishers of the schema out until the session ends."""
        try:
            session.run(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            session.run("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"nightrecs {self.schema}"])
            session.run("SET lock_timeout = 0")
        except psycopg.Error as error:
            if is_locked(error):
                raise NotNow(f"another process is publishing to the schema {self.schema!r}") from None
            raise described(error) from None

    def _remove_leftovers(self, session: Session, home_id: str) -> None:
        """Drop the schemas of attempts that were killed. They are this data set's: others have another mark."""
        names = session.run("SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace")
        ours = re.compile(rf"{re.escape(self.schema)}_next_[0-9a-f]{{8}}")
        for name, comment in names:
            if ours.fullmatch(name) and comment == self._mark(home_id):
                session.run(f"DROP SCHEMA {quoted(name)} CASCADE")

    def _mark(self, home_id: str) -> str:
        return f"nightrecs: unfinished, of the data set {self.dataset} of the home {home_id}"

    def _new_schema(self, session: Session, home_id: str) -> str:
        name = f"{self.schema}_next_{secrets.token_hex(4)}"
        with session.transaction():
            session.run(f"CREATE SCHEMA {quoted(name)}")
            session.run(f"COMMENT ON SCHEMA {quoted(name)} IS {literal(self._mark(home_id))}")
        fault("deliver:after_schema")
        return name

    def _fill(self, session: Session, schema: str, night: Night) -> list[str]:
        """Create and fill everything in the new schema. Returns what differs from the published file."""
        notes = postgres_grants.copy_defaults(session, self.schema, schema)
        views: list[str] = []
        with opened(night.path) as con:
            tables = tables_of(con)
            for table in tables:
                notes += postgres_tables.fill(session, con, schema, table).notes
                fault("deliver:after_table")
            for view in views_of(con):
                if trouble := postgres_tables.create_view(session, schema, view):
                    notes.append(trouble)
                else:
                    views.append(view.name)
        values = (
            night.home_id, night.dataset, night.run_id, night.started_at or None, night.sha256, night.code_version,
            [PUBLICATION, *(table.name for table in tables)], views, notes,
        )  # fmt: skip
        name = f"{quoted(schema)}.{PUBLICATION}"
        with session.transaction():
            session.run(f"CREATE TABLE {name} ({', '.join(f'{column} {dtype}' for column, dtype, _ in COLUMNS)})")
            session.run(f"COMMENT ON TABLE {name} IS {literal(DOC)}")
            for column, _, doc in COLUMNS:
                session.run(f"COMMENT ON COLUMN {name}.{column} IS {literal(doc)}")
            session.run(
                f"INSERT INTO {name} VALUES (%s, %s, %s, %s::timestamp, clock_timestamp() AT TIME ZONE 'UTC', "
                "%s, %s, %s, %s, %s)", values,
            )  # fmt: skip
        return notes

    def _swap(self, session: Session, following: str, home_id: str, patience: float) -> list[str]:
        """Drop the old schema and rename the new one, in one transaction; again until no reader is in the way."""
        end, pause = time.monotonic() + patience, 0.1
        while True:
            try:
                with session.transaction():
                    return self._swap_once(session, following, home_id)
            except psycopg.Error as error:
                if session.connection.closed or not is_locked(error):
                    raise
                if time.monotonic() + pause > end:
                    raise NotNow(
                        f"readers hold tables of the schema {self.schema!r} (pg_stat_activity shows who): the tables "
                        "there stay those of the night before"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _swap_once(self, session: Session, following: str, home_id: str) -> list[str]:
        name = quoted(self.schema)
        comment = session.value(
            "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace WHERE nspname = %s",
            [self.schema],
        )
        notes: list[str] = []
        if comment is not None:
            before = published_in(session, self.schema)
            if before:
                _lock_all(session, self.schema, before)
            before = self._checked(session, home_id)  # again: it may have changed before the locks were had
            notes = postgres_grants.copy_grants(session, self.schema, following)
            _drop(session, self.schema, before)
        session.run(f"ALTER SCHEMA {quoted(following)} RENAME TO {name}")
        kept = comment or f"Tables of the data set {self.dataset}, published by nightrecs every night"
        session.run(f"COMMENT ON SCHEMA {name} IS {literal(kept)}")
        return notes


def _existing(session: Session, schema: str, published: Published) -> tuple[list[str], list[str]]:
    """Quoted names of the views and tables of a publication that are there."""
    query = """SELECT c.relkind::text, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = %s AND c.relkind IN ('r', 'v') ORDER BY c.relname"""
    there = session.run(query, [schema])
    ours = {"r": set(published.tables), "v": set(published.views)}
    names = {k: [f"{quoted(schema)}.{quoted(n)}" for kind, n in there if kind == k and n in ours[k]] for k in ours}
    return names["v"], names["r"]


def _lock_all(session: Session, schema: str, published: Published) -> None:
    """Lock the publication, the views and the tables, in the order in which readers do; within LONGEST_HOLD."""
    views, tables = _existing(session, schema, published)
    longest = session.value("SELECT setting::int / 1000.0 FROM pg_settings WHERE name = 'deadlock_timeout'")
    end = time.monotonic() + min(LONGEST_HOLD, float(longest) / 2)
    first = f"{quoted(schema)}.{PUBLICATION}"
    for name in [first, *views, *(table for table in tables if table != first)]:
        left = max(int(1000 * (end - time.monotonic())), 1)
        session.run(f"SET LOCAL lock_timeout = {left}")
        session.run(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")


def _drop(session: Session, schema: str, published: Published | None) -> None:
    """Drop a schema with what nightrecs made in it. Raises NotDelivered if anything else is in it or uses it."""
    try:
        with session.transaction():
            if published:
                views, tables = _existing(session, schema, published)
                if views:
                    session.run(f"DROP VIEW {', '.join(views)} RESTRICT")
                if tables:
                    session.run(f"DROP TABLE {', '.join(tables)} RESTRICT")
            session.run(f"DROP SCHEMA {quoted(schema)} RESTRICT")
    except psycopg.errors.DependentObjectsStillExist as error:
        found = " ".join((error.diag.message_detail or error.diag.message_primary or "").split())
        raise NotDelivered(
            f"objects that nightrecs did not make are in the schema or use its tables, and would be lost: {found}. "
            "Move them to a schema of your own and let them read the tables by name, e.g. in a function of PL/pgSQL"
        ) from None


def _dropped(session: Session, schema: str) -> None:
    """Drop an unfinished schema where the server still answers; else the next attempt does."""
    try:
        session.run(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE")
    except psycopg.Error:
        return
