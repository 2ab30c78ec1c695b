"""Catalog of the built-in sample: invented book titles whose taste can be read off them at a glance."""

from dataclasses import dataclass

import numpy as np

N_ITEMS = 800
VOLUMES = ("I", "II", "III", "IV")


@dataclass(frozen=True)
class Taste:
    """One genre: a series comes in volumes; a head joins a tail, of its own taste or another, to a title."""

    genre: str
    season: int
    """1: read in winter, -1: in summer, 0: all the year."""
    series: tuple[str, ...]
    heads: tuple[str, ...]
    tails: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    """The books; a place in these arrays is the number in an id, less one."""

    titles: list[str]
    genres: list[str]  # one or two, joined by "|"
    members: np.ndarray  # (I, G): 1 where a book is of one taste, 0.6 for each of two
    previous: np.ndarray  # (I,): the volume before; the book itself where there is none


def draw_catalog(rng: np.random.Generator) -> Catalog:
    """Every volume of every series, then heads and tails joined at random, each pair once."""
    books: list[tuple[str, tuple[int, ...], int]] = []  # title, tastes, position of the volume before
    for g, taste in enumerate(TASTES):
        for name in taste.series:
            books += [(f"{name} {v}", (g,), len(books) + n - (n > 0)) for n, v in enumerate(VOLUMES)]
    seen: set[str] = set()
    while len(books) < N_ITEMS:
        g = len(books) % len(TASTES)
        second = int(rng.integers(len(TASTES))) if rng.random() < 0.3 else g
        title = f"{rng.choice(TASTES[g].heads)}: {rng.choice(TASTES[second].tails)}"
        if title not in seen:
            seen.add(title)
            books.append((title, (g,) if second == g else (g, second), len(books)))
    place = rng.permutation(N_ITEMS)  # so that ids tell nothing
    members = np.zeros((N_ITEMS, len(TASTES)))
    previous = np.empty(N_ITEMS, dtype=np.int64)
    titles, genres = [""] * N_ITEMS, [""] * N_ITEMS
    for at, (title, tastes, before) in zip(place, books, strict=True):
        titles[at], genres[at] = title, "|".join(TASTES[g].genre for g in tastes)
        members[at, tastes] = 1.0 if len(tastes) == 1 else 0.6
        previous[at] = place[before]
    return Catalog(titles, genres, members, previous)


def _taste(genre: str, season: int, *parts: str) -> Taste:
    series, heads, tails = (tuple(text.split(" | ")) for text in parts)
    return Taste(genre, season, series, heads, tails)


TASTES = (
    _taste(
        "Polar",
        1,
        "Polar Expedition Diaries | The Pack Ice Logs | Letters from Base Camp South | Huskies of the Far North",
        "The Last Sledge | White Silence | Beyond Cape Frost | The Iceberg Winter | "
        "Eighty Degrees North | A Tent on the Glacier | The Frozen Compass | Penguin Coast",
        "A Winter on the Ice Shelf | An Antarctic Crossing | Sledging to the Pole | "
        "Notes from the Pack Ice | The Frostbite Year | Under the Northern Lights | "
        "Lost in the Blizzard | Across the Tundra",
    ),
    _taste(
        "Cookery",
        1,
        "Slow-Cooked | The Village Baker | Grandmother's Stockpot | One Pan, Four Seasons",
        "Butter and Thyme | The Sourdough Year | Salt, Smoke and Onions | The Patient Oven | "
        "Soup Weather | The Dumpling Table | A Pinch of Saffron | The Jam Cupboard",
        "Winter Stews | Recipes for Long Evenings | Breads, Buns and Biscuits | Forty Family Suppers "
        "| Cakes for Sundays | The Pickle Chapter | Cooking from the Market | Pies and Puddings",
    ),
    _taste(
        "Space",
        0,
        "Starship Meridian | The Orbital Wars | Chronicles of the Ninth Colony | Captain Vega's Logbook",
        "The Silent Nebula | Gravity Well | The Titan Station | A Thousand Suns Away | Hyperdrive | "
        "The Android Ambassador | Airlock Seven | Red Planet Rising",
        "A Voyage to Andromeda | War Among the Moons | The Robot Mutiny | First Contact | "
        "Marooned in Orbit | Escape from the Asteroid Belt | The Last Cosmonaut | Beyond the Wormhole",
    ),
    _taste(
        "Crime",
        0,
        "Inspector Harrow Investigates | The Quayside Murders | Sergeant Bell's Casebook | Death in the Parish",
        "The Locked Library | A Body in Bloomfield | The Poisoned Inkwell | Three Alibis | "
        "The Silent Witness | The Forger's Glove | Murder at Low Tide | The Vanished Heiress",
        "A Detective Story | The Case of the Missing Will | An Inspector Calls Twice | "
        "Who Killed the Colonel? | The Killer's Alphabet | A Murder in Nine Clues | "
        "The Coroner's Secret | An Unsolved Poisoning",
    ),
    _taste(
        "Gardening",
        -1,
        "The Kitchen Garden Month by Month | Roses for Beginners | The Allotment Yearbook | Potting Shed Wisdom",
        "Dirt Under My Nails | The Orchard Wall | Green Tomatoes | The Compost Heap | "
        "A Border in Bloom | The Patient Gardener | Ferns and Foxgloves | Slugs, Snails and Me",
        "Planting a Cottage Garden | Pruning Without Fear | Vegetables in Small Spaces | "
        "A Gardener's Calendar | Growing from Seed | Hedges and Herbs | The Greenhouse Handbook | "
        "Bulbs for Spring",
    ),
    _taste(
        "Romance",
        0,
        "Hearts of Willow Lane | The Bridesmaid Diaries | Love in Lisbon | The Duke's Daughters",
        "Kiss Me in Verona | The Wedding Dress | Second Chance at Love | Dearest Eleanor | "
        "The Florist's Heart | Waltz by Candlelight | My Summer Sweetheart | A Proposal at Midnight",
        "A Love Story | The Unexpected Fiancé | A Kiss Before Autumn | Falling for the Neighbour | "
        "Letters to a Sweetheart | The Runaway Bride | A Marriage of Convenience | "
        "Two Hearts, One Summer",
    ),
    _taste(
        "Fantasy",
        0,
        "The Dragonkeeper Saga | Wizards of the Hollow Tower | The Elven Crown | Swords of Eldermoor",
        "The Sorcerer's Debt | A Crown of Thorns and Runes | The Goblin Market | The Unicorn Oath | "
        "Dragonfire | The Enchanted Blade | The Witch of Hazelmere | The Giant's Bargain",
        "A Tale of Dragons | The Wizard's Apprentice | The Quest for the Runestone | "
        "Magic of the Old Forest | The Elf Queen's Curse | The Battle for the Enchanted Keep | "
        "Spells and Trolls | The Prophecy of Ash",
    ),
    _taste(
        "Seafaring",
        -1,
        "Captain Marlow at Sea | The Privateer's Log | Tall Ships and Trade Winds | The Corsair Brothers",
        "The Drowned Anchor | Mutiny on the Albatross | The Lighthouse Crew | Salt in the Sails | "
        "Treasure Cove | The Pirate's Ledger | Around the Horn | The Mermaid's Figurehead",
        "A Voyage Under Sail | Pirates of the Narrow Strait | Shipwrecked | The Whaler's Return | "
        "A Cabin Boy's Story | Storm off the Cape | The Smuggler's Harbour | "
        "A Chart to Buried Treasure",
    ),
    _taste(
        "Ghosts",
        1,
        "The Haunting of Grey Abbey | Tales for the Witching Hour | The Séance Society | Spirits of Blackmere",
        "The Empty Nursery | A Cold Hand | The Thing in the Cellar | Candle in the Crypt | "
        "The Weeping Portrait | The Thirteenth Step | Whispers in the Attic | The Hollow Bride",
        "A Ghost Story | The Haunted Manor | What the Dead Remember | Terror at Midnight | "
        "The Phantom Returns | Echoes from the Grave | A Night in the Mausoleum | The Cursed House",
    ),
    _taste(
        "Railways",
        0,
        "Steam Engines of the World | Great Railway Journeys | The Branch Line Companion | Signal Box Stories",
        "The Night Express | Platform Nine | The Iron Road | Whistle at Dawn | The Stationmaster | "
        "The Mountain Funicular | Last Train to Ardmore | Coal and Steam",
        "A History of the Locomotive | Travels by Sleeper Car | The Age of Steam | Lost Branch Lines "
        "| Bridges, Tunnels and Viaducts | Across a Continent by Train | The Driver's Memoir | "
        "Timetables and Tracks",
    ),
    _taste(
        "Puzzles",
        0,
        "Sharp Pencil Sudoku | The Logic Grid Collection | Riddles for Rainy Days | Mathematical Diversions",
        "The Knight's Tour | Prime Suspects | The Infinite Staircase | Seven Bridges | "
        "The Counterfeit Coin | The Paradox Box | Squaring the Circle | Lies, Truths and Hats",
        "A Hundred Brain-Teasers | Puzzles for Patient Minds | The Mathematics of Games | "
        "Codes and Ciphers | Riddles with Answers | Adventures in Geometry | Chess Problems Solved | "
        "The Book of Mazes",
    ),
    _taste(
        "Western",
        0,
        "Sheriff of Dry Creek | The Canyon Riders | Outlaws of Red Mesa | The Cattle Trail Ballads",
        "Dust and Spurs | High Noon in Amarosa | The Lone Mustang | Six Bullets | The Saloon Widow | "
        "Gunsmoke Ridge | The Gold Rush Road | Tumbleweed",
        "A Gunslinger's Tale | The Last Cowboy | Showdown at the Ranch | The Stagecoach Robbery | "
        "Riding to the Frontier | A Bounty on His Head | The Cattle Rustlers | A Sheriff's Revenge",
    ),
)
