"""What a training line says: running text, loose words, figures and codes, and random characters."""

from random import Random

from train.data.alphabet import ALPHABET as ALPHABET
from train.data.corpus import LANGUAGES, Corpus, clean

# Shares of the four kinds of text.
_SENTENCE, _WORDS, _FIGURES = 0.55, 0.20, 0.15

_QUOTES = ("“”", "“”", "„“", "„”", "«»", "‹›", "‘’", "‚‘", "»«", '""', "''")
_BRACKETS = ("()", "()", "[]", "{}", "<>")
_TRAILING = ",,,,....;:!?…"
_RARE = "".join(c for c in ALPHABET if not (c.isascii() and c.isalnum()) and c != " ")
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwz", "aeiou"


def sample_text(corpus: Corpus, rng: Random, *, max_chars: int) -> str:
    """Draws one line of 1 to `max_chars` characters of ALPHABET, NFC, single spaces, none at the ends.

    Raises:
      ValueError: max_chars is below 1.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, not {max_chars}")
    while True:
        kind = rng.random()
        if kind < _SENTENCE:
            text = _running_text(corpus, rng, _length(rng, max_chars))
        elif kind < _SENTENCE + _WORDS:
            text = _loose_words(corpus, rng, _length(rng, max_chars))
        elif kind < _SENTENCE + _WORDS + _FIGURES:
            text = _figures(corpus, rng, _length(rng, max_chars))
        else:
            text = _random_characters(rng, _length(rng, max_chars))
        cleaned = clean(text)
        if cleaned and len(cleaned) <= max_chars:
            return cleaned


def _length(rng: Random, max_chars: int) -> int:
    """Most lines are long: a page's lines mostly fill its width."""
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


def _running_text(corpus: Corpus, rng: Random, limit: int) -> str:
    sentences = corpus.sentences[rng.choice(LANGUAGES)]
    words = rng.choice(sentences).split(" ")
    start = rng.randrange(len(words)) if rng.random() < 0.7 else 0
    words = words[start:]
    while sum(map(len, words)) + len(words) <= limit:  # a short rest runs on into another sentence, as in print
        words += rng.choice(sentences).split(" ")
    text = _fit(words, limit)
    if rng.random() < 0.5:
        text = text.replace("'", "’")
    if '"' in text and rng.random() < 0.7:
        text = _typographic_quotes(text, rng.choice(_QUOTES))
    if rng.random() < 0.3:
        text = text.replace(" -- ", rng.choice((" – ", " — "))).replace(" - ", " – ").replace("...", "…")
    if rng.random() < 0.06:
        text = _fit(_enclose(text.split(" "), rng), limit)
    if rng.random() < 0.04:
        text = text.upper()
    return text


def _typographic_quotes(text: str, quotes: str) -> str:
    parts = text.split('"')
    return "".join(part + (quotes[i % 2] if i < len(parts) - 1 else "") for i, part in enumerate(parts))


def _enclose(words: list[str], rng: Random) -> list[str]:
    """Puts quotation marks or brackets around one to three neighbouring words."""
    pair = rng.choice(_QUOTES if rng.random() < 0.6 else _BRACKETS)
    first = rng.randrange(len(words))
    last = min(len(words) - 1, first + rng.randrange(3))
    words = list(words)
    words[first] = pair[0] + words[first]
    words[last] = words[last] + pair[1]
    return words


def _loose_words(corpus: Corpus, rng: Random, limit: int) -> str:
    mixed = rng.random() < 0.3
    language = rng.choice(LANGUAGES)
    casing = rng.choice((str, str, str, str.capitalize, str.title, str.upper))
    words: list[str] = []
    while sum(map(len, words)) + len(words) <= limit:
        word = casing(rng.choice(corpus.words[rng.choice(LANGUAGES) if mixed else language]))
        dice = rng.random()
        if dice < 0.15:
            word += rng.choice(_TRAILING)
        elif dice < 0.30:
            word = _enclose([word], rng)[0]
        elif dice < 0.34:
            word = rng.choice("¿¡") + word + rng.choice("?!")
        elif dice < 0.38:
            word = word + rng.choice("-/&+_=*") + rng.choice(corpus.words[language])
        elif dice < 0.40:
            word = rng.choice("–—•·-&+*/|§"[:2] + "-&+*/|§") + " " + word
        words += word.split(" ")
    return _fit(words, limit)


def _figures(corpus: Corpus, rng: Random, limit: int) -> str:
    words: list[str] = []
    while sum(map(len, words)) + len(words) <= limit:
        item = rng.choice(_FIGURE_KINDS)(corpus, rng)
        if rng.random() < 0.25:
            item = _enclose([item], rng)[0]
        if rng.random() < 0.12:
            item += rng.choice(_TRAILING)
        words += item.split(" ")
        if rng.random() < 0.35:
            words.append(rng.choice(corpus.words[rng.choice(LANGUAGES)]))
    return _fit(words, limit)


def _digits(rng: Random, low: int, high: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def _integer(_: Corpus, rng: Random) -> str:
    return str(rng.randrange(10 ** rng.randint(1, 6)))


def _grouped(_: Corpus, rng: Random) -> str:
    number = f"{rng.randrange(10 ** rng.randint(3, 8)):,}.{_digits(rng, 2, 2)}"
    style = rng.randrange(4)
    if style == 1:
        return number.translate(str.maketrans(",.", ".,"))
    if style == 2:
        return number.translate(str.maketrans(",.", " ,"))
    return number[:-3] if style == 3 else number


def _price(corpus: Corpus, rng: Random) -> str:
    number = _grouped(corpus, rng) if rng.random() < 0.5 else f"{rng.randrange(1000)}.{_digits(rng, 2, 2)}"
    sign = rng.choice("$$€€££")
    return rng.choice((sign + number, number + " " + sign, number.replace(".", ",") + sign, "EUR " + number))


def _date(_: Corpus, rng: Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1850, 2035)
    name = rng.choice(("Jan", "März", "avril", "maggio", "junio", "July", "agosto", "Sept.", "Oktober", "décembre"))
    styles = (
        f"{year}-{month:02}-{day:02}", f"{day:02}/{month:02}/{year}", f"{day}.{month}.{year}", f"{day}. {name} {year}",
        f"{name} {day}, {year}", f"{day:02}-{month:02}-{year % 100:02}", f"{month}/{day}/{year % 100:02}", str(year),
        f"{year}–{year + rng.randint(1, 30)}", f"1ª {name}", f"{day}º {name}",
    )  # fmt: skip
    return rng.choice(styles)


def _time(_: Corpus, rng: Random) -> str:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return rng.choice((f"{hour:02}:{minute:02}", f"{hour % 12 + 1}:{minute:02} {rng.choice(('am', 'PM'))}", f"{hour}h{minute:02}"))


def _percent(_: Corpus, rng: Random) -> str:
    number = rng.choice((str(rng.randrange(101)), f"{rng.random() * 100:.1f}", f"{rng.random() * 100:.2f}"))
    sign = rng.choice(("%", "%", "%", " %", "°", "°C"))
    return rng.choice(("", "", "", "+", "-", "±"[:0], "~", "<", ">")) + number.replace(".", rng.choice(".,")) + sign


def _email(corpus: Corpus, rng: Random) -> str:
    name = _name(corpus, rng) + rng.choice(("", ".", "_", "-", "+")) + rng.choice((_name(corpus, rng), _digits(rng, 0, 3)))
    return f"{name}@{_name(corpus, rng)}.{rng.choice(('com', 'org', 'net', 'de', 'fr', 'it', 'es', 'pt', 'eu', 'co.uk'))}"


def _url(corpus: Corpus, rng: Random) -> str:
    host = _name(corpus, rng) + "." + rng.choice(("com", "org", "net", "de", "fr", "it", "es", "pt", "info"))
    path = "".join("/" + _name(corpus, rng) for _ in range(rng.randrange(3)))
    query = rng.choice(("", "", f"?{_name(corpus, rng)}={_digits(rng, 1, 4)}", ".html", f"#{_name(corpus, rng)}"))
    return rng.choice(("http://", "https://", "www.", "https://www.", "")) + host + path + query


def _name(corpus: Corpus, rng: Random) -> str:
    word = rng.choice(corpus.words["en"]).lower().replace("'", "")
    return word if word.isascii() else rng.choice(_CONSONANTS) + rng.choice(_VOWELS) + rng.choice(_CONSONANTS)


def _code(_: Corpus, rng: Random) -> str:
    pattern = rng.choice(("AA-999", "A9A 9A9", "#99", "No. 999", "AAA999", "9A-99/9", "AA 99 AA", "99999-999", "Nº 99", "§ 99", "§99a", "ISBN 999-9-99"))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "".join(rng.choice("0123456789") if c == "9" else rng.choice(letters) if c == "A" else c for c in pattern)


def _phone(_: Corpus, rng: Random) -> str:
    pattern = rng.choice(("+99 999 9999", "(999) 999-9999", "0999/999999", "09.99.99.99.99", "+99-99-9999-999", "999 999 999"))
    return "".join(rng.choice("0123456789") if c == "9" else c for c in pattern)


def _identifier(corpus: Corpus, rng: Random) -> str:
    first, second = _name(corpus, rng), _name(corpus, rng)
    styles = (
        f"{first}_{second}", f"{first}{second.capitalize()}", f"{first}.{second}()", f"--{first}-{second}", f"${{{first}}}",
        f"/{first}/{second}", f"{first}[{_digits(rng, 1, 2)}]", f"{first}={second}", f"<{first}>", f"C:\\{first}", f"{first}|{second}",
        f"`{first}`", f"~/{first}", f"{first}^{_digits(rng, 1, 1)}", f"{first} & {second}", f"*{first}*",
    )  # fmt: skip
    return rng.choice(styles)


def _arithmetic(_: Corpus, rng: Random) -> str:
    a, b = _digits(rng, 1, 3), _digits(rng, 1, 3)
    return rng.choice((f"{a} {rng.choice('+-*/=<>')} {b}", f"{a}{rng.choice('+-*/=<>x:')}{b}", f"{a}:{b}", f"({a}; {b})", f"{a}-{b}"))


_FIGURE_KINDS = (
    _integer, _grouped, _price, _price, _date, _date, _time, _percent, _percent, _email, _url, _code, _code, _phone,
    _identifier, _arithmetic,
)  # fmt: skip


def _random_characters(rng: Random, limit: int) -> str:
    """Random words over the alphabet, each drawn from one of a few sets, so that rare characters are seen often."""
    words: list[str] = []
    while sum(map(len, words)) + len(words) <= limit:
        pool = rng.choice((ALPHABET[1:], ALPHABET[1:63], _RARE, _RARE, "Il1|!i]['", "O0oQCG", "S5$8B&3", "'‘’‚,„“”\"", "rnm.,:;"))
        words.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 9))))
    return _fit(words, limit)
