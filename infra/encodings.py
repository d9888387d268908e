"""Which encoding text of unknown origin has: told from its words, or not told where too little speaks for one.

Encodings that make of the bytes what no language writes are out; `chardet` ranks the others, and the first of them must
lead by far.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

WESTERN = "cp1252"
WORDS_MIN = 12
"""Different words that an encoding is told from; fewer could be almost anything."""
WORDS_MAX = 1000
"""Different words that are looked at."""
LEAD_MIN, WESTERN_LAG_MAX = 0.02, 0.01
"""How far the best reading must rank above the next one, and how far Western text may rank below the best."""
MISSES, MISSED = 2, 0.1
"""Words that an encoding may fail to read and still be the right one, in number and as a share: damage, `éLAN`."""
USUAL = (
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874", "cp932"),
    *("cp949", "gb18030", "big5hkscs", "euc_jis_2004", "koi8-r", "koi8-u", "cp437", "cp850", "cp852", "cp866"),
    *("iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9", "iso8859-15", "mac-roman", "mac-cyrillic", "mac-latin2"),
)
"""Encodings that can be told, by chardet's names: Windows', Unix's, DOS's and the old Macintosh's."""

_MARKS = "¡¢£¤¥¦§¨¬¯±¶¸¼½¾¿ƒ"
_GLUED = f"{_MARKS}‚„ª²³µ¹º°«»†‡…‰‹›"
ODD = re.compile(
    "[\x80-\x9f\ue000-\uf8ff\ufffd]"  # controls, private letters, bytes that the encoding lacks
    f"|[^\\W\\d_](?:[{_GLUED}](?=[^\\W\\d_])|[{_MARKS}‚„])"  # signs inside a word, or at its end
)
"""What other encodings look like when they are read as a wrong one, and text hardly ever."""
RARE = re.compile("[ðþÐÞ…†‡ˆ˜•]")
"""What Western words may hold and hardly do, and what others look like: Baltic, Turkish, DOS's and Macintosh's."""
SIGNS = frozenset("©®™°±×÷+<=>~^`|$´¨¯¸¬¦№")
"""Signs that text has; others, such as those that boxes are drawn with, it has not."""
_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "HALFWIDTH", "FULLWIDTH", "BOPOMOFO")


@dataclass(frozen=True)
class Told:
    """The encoding of some words: a codec, whether it is certain, and whether they may well be Western."""

    encoding: str = ""
    certain: bool = False
    western: bool = False


def tell(words: Collection[bytes]) -> Told:
    """The encoding of `words`, which differ and are no ASCII; nothing (`Told()`) where no usual one fits nearly all."""
    readable = {codec: {word for word in words if _is_readable(word, codec)} for codec in USUAL}
    misses = max(min(MISSES, len(words) // 4), int(MISSED * len(words)))
    near = {codec: found for codec, found in readable.items() if len(words) - len(found) <= misses}
    # All are asked about the same words: a single damaged one must not strike the right encoding off the list.
    common = [word for word in words if all(word in found for found in near.values())]
    ranked = list(_readings(b" ".join(common), near)) if common else []
    if not ranked:
        return Told()
    (score, encoding, text), lead = ranked[0], ranked[0][0] - (ranked[1][0] if len(ranked) > 1 else 0.0)
    alike = [codec for codec in near if b" ".join(common).decode(codec) == text]
    encoding = max(alike, key=lambda codec: (len(near[codec]), codec == encoding))
    clear = all(near[codec] <= near[encoding] for codec in alike) and lead >= LEAD_MIN and len(common) >= WORDS_MIN
    western = b" ".join(common).decode(WESTERN, errors="replace")
    close = any(text == western and score - rank <= WESTERN_LAG_MAX for rank, _, text in ranked)
    rare = sum(RARE.search(word) is not None for word in western.split()) > MISSED * len(common)
    return Told(encoding, clear, close and not rare)


def of_names(words: Collection[bytes]) -> str:
    """The codec of names that differ and are no ASCII; empty: it is not certain."""
    try:
        b" ".join(words).decode("utf-8")
    except UnicodeDecodeError:
        told = tell(list(words)[:WORDS_MAX])
        return told.encoding if told.certain else ""
    return "utf-8"


def _readings(data: bytes, usual: Collection[str]) -> Iterator[tuple[float, str, str]]:
    """(rank from 0 to 1, codec, text) of each text that the bytes are by these codecs, the best first."""
    import chardet  # 30 ms, and only text that is no UTF-8 needs it

    seen: set[str] = set()
    found = chardet.detect_all(
        data, ignore_threshold=True, include_encodings=(*usual, "ascii"), no_match_encoding="ascii"
    )
    for each in found:
        codec = codecs.lookup(each["encoding"] or "ascii").name
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        if text not in seen:
            seen.add(text)
            yield each["confidence"], codec, text


def _is_readable(word: bytes, codec: str) -> bool:
    try:
        return not _is_odd(word.decode(codec))
    except UnicodeDecodeError:
        return False


def _is_odd(word: str) -> bool:
    if ODD.search(word) or any(_kind(letter) == "SIGN" for letter in word):
        return True
    for run in re.findall(r"[^\W\d_]+", word):
        if run.isascii():
            continue
        kinds = {_kind(letter) for letter in run} - {""}
        if len(kinds) > 1 or any(before.islower() and after.isupper() for before, after in pairwise(run)):
            return True
        if kinds == {"LATIN"} and re.search(r"[^\x00-\x7f]{4}", run):
            return True
    return False


@cache
def _kind(letter: str) -> str:
    """The letter's script; SIGN for a sign that text hardly has, and nothing for any other sign."""
    if letter.isalpha() and letter not in "ªµº":
        script = unicodedata.name(letter, "?").split()[0]
        return "CJK" if script in _ASIAN else script
    return "SIGN" if unicodedata.category(letter) in ("So", "Sm", "Sk", "Cn") and letter not in SIGNS else ""


# Single lines and rows ------------------------------------------------------------------------------------------------

_ACCENTED = "À-ÖØ-öø-ÿŒœŠšŽžŸ"
UNWESTERN = re.compile(
    "\ufffd"  # bytes that Windows-1252 does not have
    f"|[{_ACCENTED}{_MARKS}ª²³µ¹º]{{3}}|[ª²³µ¹º][{_ACCENTED}]"
    f"|[^\\W\\d_][{_MARKS}‚„]|[^\\W\\d_][ª²³µ¹º][^\\W\\d_]"  # signs that end a word, or stand inside one
    "|[a-zß-öø-ÿ][À-ÖØ-ÞŒŠŽŸ]"
)
"""What a line of another encoding looks like when it is read as Windows-1252, and Western words hardly ever."""
_CYRILLIC, _HAN = "\u0400-\u045f\u00a0«»–—№", "\u3000-\u30ff\u4e00-\u9fff\uff00-\uff60"
GUESSES = (
    ("Shift-JIS", "cp932", f"[{_HAN}]*[\u3041-\u30ff][{_HAN}]*"),  # kana tell it from the others
    ("Windows-1251", "cp1251", f"[{_CYRILLIC}]+"),
    ("KOI8-R", "koi8-r", f"[{_CYRILLIC}]+"),
    ("Windows-1253", "cp1253", "[\u0370-\u03ff\u00a0]+"),
    ("EUC-KR", "cp949", "[\uac00-\ud7a3\u3000-\u303f]+"),
    ("GB18030", "gb18030", f"[{_HAN}]+"),
)
"""Encodings that a few words may be in where all letters that are no ASCII match: the first one that does."""


def western(line: bytes) -> str | None:
    """The text of a line that looks Western; None: it does not."""
    text = line.decode(WESTERN, errors="replace")
    return None if UNWESTERN.search(text) else text


def hint(data: bytes) -> str:
    """What is known of a few words that nothing was told of, for people."""
    for name, codec, letters in GUESSES:
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        regular = not any(before.islower() and after.isupper() for before, after in pairwise(text))
        if regular and re.fullmatch(letters, "".join(letter for letter in text if not letter.isascii())):
            return f"{text[:40]!r} if it is {name}"
    return repr(data[:40])
