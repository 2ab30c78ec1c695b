"""Guesses the encoding of a text: UTF-8 where it is, else the encoding that gives the most plausible words.

charset-normalizer, which knows the letters of many languages, decides between encodings that are equally plausible; on
the few letters of a list of names it alone is too often wrong.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from charset_normalizer import from_bytes

from pipeline.sources.file_kinds import wide_encoding

CANDIDATES = (
    "cp1252", "iso8859-15", "cp1250", "iso8859-2", "cp1251", "koi8-r", "cp866", "iso8859-5", "cp1253", "cp1254",
    "cp1255", "cp1256", "cp1257", "cp874", "cp932", "euc_jp", "gb18030", "big5", "cp949", "mac-roman", "cp850",
)  # fmt: skip
"""Encodings that are considered, the more frequent ones first. Latin-1 is none of them: text in it is read alike as
cp1252, which also has the curly quotes and the € that may come later in the file."""
ALPHABETS = (
    "àâæçéèêëîïôœùûüÿ", "äöüß", "áéíóúüñ", "áâãàçéêíóôõúü", "àèéìíòóùú", "áéëïóöü", "æøåé", "åäöé", "áðéíóúýþæö",
    "ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "čćđšž", "ăâîşţșț", "çğıöşüâîûi̇",
    "ąčęėįšųūž", "āčēģīķļņšūž", "äöõüšž",
)  # fmt: skip
"""Letters beyond ASCII of languages that are written in Latin script: French, German, Spanish, Portuguese, Italian,
Dutch, Danish and Norwegian, Swedish and Finnish, Icelandic; Polish, Czech, Slovak, Hungarian, Croatian and Slovene,
Romanian, Turkish; Lithuanian, Latvian, Estonian."""
_SAMPLE = 2**14  # bytes
_AS_PLAUSIBLE = 0.02
_CLEARLY_MORE = 0.1
_MOSTLY = 0.5
_JOINING = "’'‘·-‐‑–—ʼ"  # punctuation that stands within words
_TOGETHER = ({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC"},)


@dataclass(frozen=True)
class Guess:
    """An encoding, and what a person should check; empty if there is no doubt."""

    encoding: str
    note: str = ""


def guess(start: bytes) -> Guess:
    """The encoding of a text, from its first bytes, which must end with a whole line."""
    if wide := wide_encoding(start):
        return Guess(wide)
    try:
        start.decode()
        return Guess("utf-8")
    except UnicodeDecodeError:
        pass
    lines = [line for line in start.splitlines() if not line.isascii()]
    valid = sum(_decodes(line, "utf-8") for line in lines)
    if valid >= _MOSTLY * len(lines):
        wrong = len(lines) - valid
        return Guess("utf-8", f"{wrong:,} of the first lines are not UTF-8 like the others: they will be rejected")
    sample = b"\n".join(dict.fromkeys(lines))[:_SAMPLE].rpartition(b"\n")[0] or lines[0][:_SAMPLE]
    encoding = _most_plausible(sample)
    shown = next(
        (word for word in re.findall(r"\w[\w’' -]*", sample.decode(encoding, "replace")) if not word.isascii()), ""
    )
    example = f", so that it holds words such as {shown[:30].strip()!r}" if shown else ""
    note = f"the file is not UTF-8; its encoding is a guess: {encoding}{example}"
    return Guess(encoding, note)


def _most_plausible(sample: bytes) -> str:
    scores = {code: implausible(sample.decode(code)) for code in CANDIDATES if _decodes(sample, code)}
    if not scores:  # bytes that cp1252 lacks, or a cut character
        return "latin-1"
    best = min(scores.values())
    close = [code for code, score in scores.items() if score <= best + _AS_PLAUSIBLE]
    return _most_coherent(sample, close) if len(close) > 1 else close[0]


def _most_coherent(sample: bytes, close: list[str]) -> str:
    """The encoding that fits a language best; the more frequent one if there is no clear difference."""
    texts = {code: sample.decode(code) for code in close}
    if all(_script(letter) == "LATIN" for letter in texts[close[0]] if letter.isalpha()):
        known = {code: _known_letters(text) for code, text in texts.items()}
        best = max(known, key=lambda code: known[code])
        return best if known[best] > known[close[0]] + _CLEARLY_MORE else close[0]
    match = from_bytes(sample, cp_isolation=close, threshold=1.0, enable_fallback=False).best()
    names = [match.encoding, *match.could_be_from_charset] if match else []
    return next((code for name in names for code in close if _same(name, code)), close[0])


def _known_letters(text: str) -> float:
    """Share of the letters beyond ASCII that one language has: the best one of ALPHABETS."""
    letters = [letter.lower() for letter in text if letter.isalpha() and not letter.isascii()]
    if not letters:
        return 1.0
    return max(sum(letter in alphabet for letter in letters) for alphabet in ALPHABETS) / len(letters)


def _same(one: str, other: str) -> bool:
    return one.replace("_", "").replace("-", "") == other.replace("_", "").replace("-", "")


def implausible(text: str) -> float:
    """How many of the characters beyond ASCII do not fit their neighbours, per such character."""
    wrong = count = 0.0
    padded = f" {text} "
    for before, (here, after) in zip(padded, pairwise(padded[1:]), strict=False):
        if here.isascii():
            continue
        count += 1
        wrong += _misfit(before, here, after)
    runs = re.findall(r"[\u00aa-\u024f]{3,}", text)  # Latin letters with marks do not come in threes
    return (wrong + sum(len(run) for run in runs)) / count if count else 0.0


def _misfit(before: str, here: str, after: str) -> float:
    """How badly a character fits those around it: 0 to 3."""
    kind = unicodedata.category(here)
    if kind in ("Cc", "Cn", "Co", "Cs", "Cf"):
        return 3.0
    if kind[0] == "M":
        return 0.0
    if kind[0] == "L" and here not in "ªº":
        mixed = any(other.isalpha() and not _together(here, other) for other in (before, after))
        turned = before.islower() and here.isupper()
        return float(mixed or turned) + ("HALFWIDTH" in _name(here))
    if _name(here).startswith(("BOX", "BLOCK", "LIGHT SHADE", "MEDIUM SHADE", "DARK SHADE")):
        return 2.0
    neighbours = before.isalpha() + after.isalpha()
    if kind in ("Pd", "Po", "Pi", "Pf", "Ps", "Pe", "Zs"):
        return float(neighbours == 2 and here not in _JOINING and _is_western(before))
    return float(neighbours > 0)


def _together(one: str, other: str) -> bool:
    """Whether two letters occur in one word: of the same script, or of scripts that are mixed."""
    scripts = {_script(one), _script(other)}
    return len(scripts) == 1 or any(scripts <= mixed for mixed in _TOGETHER)


def _is_western(letter: str) -> bool:
    return _script(letter) in ("LATIN", "CYRILLIC", "GREEK")


@cache
def _script(letter: str) -> str:
    return _name(letter).partition(" ")[0]


@cache
def _name(character: str) -> str:
    return unicodedata.name(character, "")


def _decodes(text: bytes, encoding: str) -> bool:
    try:
        text.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
