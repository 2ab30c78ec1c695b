"""What a column's name says it numbers, in the languages of many exports: `Kundennr.`, `N° client`, `Artikel`."""

from pipeline.sources.sniffing.cells import plain_name, words_of

_USERS_WORDS = """
customer client kunde kundin kaufer benutzer nutzer mitglied konto cliente acheteur utilisateur membre usuario
comprador miembro utente acquirente membro utilizador klant gebruiker koper
"""
USERS = frozenset(_USERS_WORDS.split())
_ITEMS_WORDS = """
article product artikel produkt ware buch lied spiel produit livre articulo producto libro pelicula cancion
articolo prodotto artigo produto livro boek
"""
ITEMS = frozenset(_ITEMS_WORDS.split())
_ORDERS_WORDS = """
session basket transaction order invoice
auftrag bestellung bestell beleg rechnung vorgang lieferschein bon kassenbon sitzung commande
facture panier recu pedido factura recibo sesion ordine fattura scontrino ricevuta sessione encomenda fatura
carrinho factuur bestel sessie
"""
ORDERS = frozenset(_ORDERS_WORDS.split())
"""Orders, invoices, baskets and sessions: one of them has rows of one user."""
_MARKS_WORDS = """
id ids n no nr num number numero nummer code codigo codice cod key ref reference referencia riferimento
"""
_MARKS = frozenset(_MARKS_WORDS.split())
"""Words that say that a column numbers something."""
_LINKS_WORDS = """
de del della dello dell do da du di des d l la le el of the
"""
_LINKS = frozenset(_LINKS_WORDS.split())
_ENDINGS = ("nummer", "number", "numero", "code", "key", "nr", "no", "id")
_INFLECTIONS = ("en", "es", "n", "s", "e")
"""What joins a German compound, as in `Kundennummer` and `Auftragsnummer`, or makes a plural."""


def says(name: str, nouns: frozenset[str]) -> bool:
    """Whether a column's name is one of the nouns, with or without words and endings that number things."""
    rest = "".join(word for word in words_of(name) if word not in _MARKS | _LINKS)
    stems = {rest, *(rest.removesuffix(ending) for ending in _ENDINGS)}
    return any(stem in nouns or any(_without(stem, by) in nouns for by in _INFLECTIONS) for stem in stems)


def is_number_name(name: str) -> bool:
    """Whether a name says that the column numbers something: `Kundennr.`, `N° client`."""
    return bool(_MARKS & set(words_of(name))) or plain_name(name).endswith(_ENDINGS)


def _without(stem: str, inflection: str) -> str:
    return stem.removesuffix(inflection) if stem.endswith(inflection) else ""
