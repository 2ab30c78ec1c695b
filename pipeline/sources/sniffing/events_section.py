"""Writes `[events]` for a file with event types: the types with their counts, weights, target and withdrawals."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.sources.sniffing.columns_section import quoted
from pipeline.sources.sniffing.event_columns import EventColumn, event_column
from pipeline.sources.sniffing.preview import Peek
from pipeline.storage import warehouse

BOUGHT, CHOSEN, WISHED, SEEN, NOTHING = 1.0, 0.4, 0.3, 0.1, 0.0
"""Proposed weights, by what an event says about a taste."""
_KNOWN = {
    BOUGHT: "play played plays listen listened watched watch stream read download install rent rental borrow borrowed "
    "reserve reserved book booked apply applied finish finished complete completed",
    CHOSEN: "cart carts addtocart addcart atc basket addtobasket checkout checkoutstart begincheckout warenkorb panier "
    "ajoutaupanier carrito carrello winkelwagen koszyk",
    WISHED: "wishlist addtowishlist favorite favourite fav addtofavorites collect save saved bookmark follow like "
    "share subscribe rate review comment contact merkzettel favoris favoritos",
    SEEN: "view viewed views pageview pv click clicked clicks clickout tap open opened detail detailview visit browse "
    "search ansicht vue vista visto clic visualizzazione bekeken",
    NOTHING: "impression skip skipped pause stop return returned refund refunded cancel cancelled removefromcart "
    "removecart unfollow unlike unsubscribe dislike",
}
_SALES_WORDS = """
order ordered orders buy bought purchase purchased purchases transaction conversion pay paid payment sale sold
checkoutcomplete kauf gekauft bestellung achat commande compra comprado pedido acquisto ordine aankoop zakup
"""
_SALES = frozenset(_SALES_WORDS.split())
_WEIGHTS = dict.fromkeys(_SALES, BOUGHT) | {word: weight for weight, of in _KNOWN.items() for word in of.split()}
_WITHDRAWS = {
    "removefromcart": CHOSEN, "removecart": CHOSEN, "unfollow": WISHED, "unlike": WISHED, "unsubscribe": WISHED,
}  # fmt: skip
"""Words for events that take back others, to the weight of those."""
_RETURNS = ("return", "returned", "refund", "refunded", "cancel", "cancelled")
_QUANTITIES = ("quantity", "qty", "pieces", "units", "count", "amount", "menge", "anzahl", "quantite", "cantidad")
_MOST_SHOWN = 12
UNSURE = SEEN
"""Weight of a type whose name is not known."""


@dataclass(frozen=True)
class Section:
    """The proposed `[events]`."""

    lines: list[str]
    """TOML, with the header of the section."""
    notes: list[str]
    """What a person has to check."""
    quantity: str | None
    """The column with quantities."""


def events_section(path: Path, table: Peek, taken: set[int]) -> Section | None:
    """The section for a file; None if it has no column of event types, or only one type. `taken`: columns with a role.

    Types are counted in the whole file, where DuckDB reads it as it is; else in its first rows.
    """
    found = event_column(table.names, table.rows, taken)
    if found is None:
        return None
    counts, is_whole = _counts(path, table, found)
    if len(counts) < 2:
        return None
    weights, withdraws = _weights(counts)
    target = _target(weights)
    unknown = [kind for kind in weights if _plain(kind) not in _WEIGHTS]
    quantity = next(
        (name for at, name in enumerate(table.names) if at not in taken and _plain(name) in _QUANTITIES), None
    )
    shown = ", ".join(f"{kind} {n:,}" for kind, n in list(counts.items())[:_MOST_SHOWN])
    where = "" if is_whole else " in the first rows"
    lines = [
        f"[events]  # types{where}: {_comment(shown)}",
        f"column = {quoted(table.names[found.at])}",
        f"weights = {_table(weights)}  # 0: not learnt from; other types are dropped, with a warning",
    ]
    if withdraws:
        lines.append(f"withdraws = {_table(withdraws)}  # cancels earlier events of the user and item")
    lines.append(f"target = {quoted(target)}  # held out, ranked and counted by metrics; then no longer recommended")
    if quantity:
        lines.append(f"quantity = {quoted(quantity)}  # of an event; empty: 1")
    lines += [
        "# caps = { per_user_per_day = 500 }  # for bots and scrapers",
        "# search = true  # search the weights of other types than the target's on valid",
    ]
    notes = []
    if unknown:
        notes.append(
            f"the event types {', '.join(map(quoted, unknown[:5]))} are not known by name, so their weight "
            f"{UNSURE:g} is a guess; set events.weights and events.target"
        )
    if returned := [kind for kind in weights if _plain(kind) in _RETURNS]:
        notes.append(
            f"{quoted(returned[0])} does not take back what was bought unless events.withdraws says so, e.g. "
            f"{_table({returned[0]: target})}; then it has no weight"
        )
    lines += [f"# {note}" for note in notes]
    return Section(lines, notes, quantity)


def _weights(counts: dict[str, int]) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Weight of each type, the lowest first, and what each withdrawing type cancels."""
    of = {kind: _WEIGHTS.get(_plain(kind), UNSURE) for kind in counts}
    withdraws = {
        kind: cancelled
        for kind in counts
        if (weight := _WITHDRAWS.get(_plain(kind))) is not None
        and (cancelled := [other for other, own in of.items() if own == weight and other != kind])
    }
    weights = {kind: weight for kind, weight in of.items() if kind not in withdraws}
    if not any(weights.values()):
        weights = dict.fromkeys(weights, BOUGHT)
    return dict(sorted(weights.items(), key=lambda each: each[1])), withdraws


def _target(weights: dict[str, float]) -> list[str]:
    """Types of sales; without any, those with the highest weight."""
    highest = max(weights.values())
    return [kind for kind in weights if _plain(kind) in _SALES] or [k for k, w in weights.items() if w == highest]


def _counts(path: Path, table: Peek, found: EventColumn) -> tuple[dict[str, int], bool]:
    """Rows by type, most first, and whether they are of the whole file."""
    name = table.names[found.at]
    try:
        with warehouse.scratch() as con:
            rows = con.sql(
                f"SELECT trim(CAST({warehouse.quoted(name)} AS VARCHAR)) AS kind, count(*) AS n "
                f"FROM {_scan(path, table)} GROUP BY kind ORDER BY n DESC, kind LIMIT 100"
            ).fetchall()
    except (warehouse.DatabaseError, LookupError):
        return found.counts, False
    counts = Counter({str(kind): n for kind, n in rows if kind})
    return (dict(counts.most_common()), True) if set(found.counts) <= counts.keys() else (found.counts, False)


def _scan(path: Path, table: Peek) -> str:
    """The file as DuckDB reads it. Raises LookupError where its layout has something else than DuckDB knows."""
    file, reading = warehouse.literal(path), table.reading
    if path.suffix == ".parquet":
        return f"read_parquet({file})"
    known = {"delimiter", "header", "encoding", "quote", "column_names"}
    if not known >= reading.keys() or reading["encoding"] != "utf-8":
        raise LookupError(path)
    columns = ", ".join(f"{warehouse.literal(name)}: 'VARCHAR'" for name in table.names)
    options = {"delim": reading["delimiter"], "quote": reading["quote"], "escape": reading["quote"]}
    shown = ", ".join(f"{key} = {warehouse.literal(value)}" for key, value in options.items())
    return (
        f"read_csv({file}, auto_detect = false, skip = {int(reading['header'])}, header = false, {shown}, "
        f"columns = {{{columns}}}, ignore_errors = true)"
    )


def _table(values: dict[str, float] | dict[str, list[str]]) -> str:
    """An inline table of TOML."""
    keys = (key if re.fullmatch("[A-Za-z0-9_-]+", key) else quoted(key) for key in values)
    return "{ " + ", ".join(f"{key} = {quoted(value)}" for key, value in zip(keys, values.values(), strict=True)) + " }"


def _comment(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
