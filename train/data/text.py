"""What a training line says: running text, loose words, figures and codes, and random characters."""

from random import Random

from train.data.alphabet import ACCENTED
from train.data.alphabet import ALPHABET as ALPHABET
from train.data.corpus import LANGUAGES, Corpus, clean
from train.data.figures import sample_figure

# Shares of the first three kinds of text; the rest is random characters.
_RUNNING, _LOOSE, _FIGURES = 0.55, 0.20, 0.15

_QUOTES = ("“”", "“”", "„“", "„”", "«»", "«»", "‹›", "‘’", "‚‘", "»«", '""', "''")
_BRACKETS = ("()", "()", "[]", "{}", "<>")
_TRAILING = ",,,,....;:!?…"
_MARKS = "".join(c for c in ALPHABET if not c.isalnum() and c != " ")
_LOWER = "abcdefghijklmnopqrstuvwxyz"
# Random characters are drawn from one of these: everything, the rare, and sets that are easily confused.
_POOLS = (
    ALPHABET[1:], ALPHABET[1:63], ACCENTED, ACCENTED + _LOWER, ACCENTED + _MARKS, _MARKS,
    "Il1|!i]['t", "O0oQCGcea", "S5$8B&3Z2z", "rnm.,:;", "°ªº'’*\"“^`~",
)  # fmt: skip


def sample_text(corpus: Corpus, rng: Random, *, max_chars: int) -> str:
    """Draws one line of 1 to `max_chars` characters of ALPHABET, NFC, single spaces, none at the ends.

    Raises:
      ValueError: max_chars is below 1.
    """
    while True:
        kind = rng.random()
        limit = _limit(max_chars, rng)
        if kind < _RUNNING:
            text = _running_text(corpus, rng, limit)
        elif kind < _RUNNING + _LOOSE:
            text = _loose_words(corpus, rng, limit)
        elif kind < _RUNNING + _LOOSE + _FIGURES:
            text = _figures(corpus, rng, limit)
        else:
            text = _random_characters(rng, limit)
        cleaned = clean(text)
        if cleaned and len(cleaned) <= max_chars:
            return cleaned


def sample_sentence(corpus: Corpus, rng: Random, *, max_chars: int) -> str:
    """Draws a piece of running text alone, with nothing of the other kinds; lengths and errors as in `sample_text`."""
    while True:
        limit = _limit(max_chars, rng)
        cleaned = clean(_running_text(corpus, rng, limit))
        if cleaned and len(cleaned) <= max_chars:
            return cleaned


def _limit(max_chars: int, rng: Random) -> int:
    """How long a text may be: most are long, as the lines of a page mostly fill its width."""
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, not {max_chars}")
    return max(1, round(max_chars * max(rng.random(), rng.random(), rng.uniform(0.1, 1.0))))


def _fit(words: list[str], limit: int) -> str:
    """As many of the words as fit into `limit` characters; a first word that is too long is cut."""
    text = words[0]
    if len(text) > limit:
        return text[:limit]
    for word in words[1:]:
        if len(text) + 1 + len(word) > limit:
            break
        text += " " + word
    return text


def _fills(words: list[str], limit: int) -> bool:
    return sum(map(len, words)) + len(words) > limit


def _running_text(corpus: Corpus, rng: Random, limit: int) -> str:
    sentences = corpus.sentences[rng.choice(LANGUAGES)]
    words = rng.choice(sentences).split(" ")
    words = words[rng.randrange(len(words)) :] if rng.random() < 0.7 else words
    while not _fills(words, limit):  # a short rest runs on into another sentence, as in print
        words += rng.choice(sentences).split(" ")
    text = _fit(words, limit)
    if rng.random() < 0.5:
        text = text.replace("'", "’")
    if '"' in text and rng.random() < 0.7:
        text = _typographic_quotes(text, rng.choice(_QUOTES))
    if rng.random() < 0.3:
        text = text.replace(" -- ", rng.choice((" – ", " — "))).replace(" - ", " – ").replace("...", "…")
    if rng.random() < 0.08:
        text = _fit(_enclosed(text.split(" "), rng), limit)
    if rng.random() < 0.04:
        text = text.upper()
    return text


def _typographic_quotes(text: str, quotes: str) -> str:
    parts = text.split('"')
    return "".join(part + (quotes[i % 2] if i < len(parts) - 1 else "") for i, part in enumerate(parts))


def _enclosed(words: list[str], rng: Random) -> list[str]:
    """The words with quotation marks or brackets around one to three neighbours."""
    pair = rng.choice(_QUOTES if rng.random() < 0.6 else _BRACKETS)
    first = rng.randrange(len(words))
    last = min(len(words) - 1, first + rng.randrange(3))
    words = list(words)
    words[first] = pair[0] + words[first]
    words[last] += pair[1]
    return words


def _loose_words(corpus: Corpus, rng: Random, limit: int) -> str:
    mixed = rng.random() < 0.3
    accented = rng.random() < 0.4
    language = rng.choice(LANGUAGES)
    casing = rng.choice((str, str, str, str.capitalize, str.capitalize, str.upper))
    words: list[str] = []
    while not _fills(words, limit):
        if accented:  # every accented letter equally often, whatever its language
            pool = corpus.accented_words[rng.choice(tuple(corpus.accented_words))]
        else:
            pool = corpus.words[rng.choice(LANGUAGES) if mixed else language]
        words += _punctuated(casing(rng.choice(pool)), corpus, rng).split(" ")
    return _fit(words, limit)


def _punctuated(word: str, corpus: Corpus, rng: Random) -> str:
    dice = rng.random()
    if dice < 0.15:
        return word + rng.choice(_TRAILING)
    if dice < 0.30:
        return _enclosed([word], rng)[0]
    if dice < 0.34:
        return rng.choice(("¿{}?", "¡{}!")).format(word)
    if dice < 0.38:
        return word + rng.choice("-/&+_=*") + rng.choice(corpus.words[rng.choice(LANGUAGES)])
    if dice < 0.41:
        return rng.choice("–—-&+*/|§") + " " + word
    return word


def _figures(corpus: Corpus, rng: Random, limit: int) -> str:
    words: list[str] = []
    while not _fills(words, limit):
        item = sample_figure(corpus, rng)
        if rng.random() < 0.25:
            item = _enclosed([item], rng)[0]
        if rng.random() < 0.12:
            item += rng.choice(_TRAILING)
        words += item.split(" ")
        if rng.random() < 0.35:
            words.append(rng.choice(corpus.words[rng.choice(LANGUAGES)]))
    return _fit(words, limit)


def _random_characters(rng: Random, limit: int) -> str:
    words: list[str] = []
    while not _fills(words, limit):
        pool = rng.choice(_POOLS)
        words.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 8))))
    return _fit(words, limit)
