"""Figures and codes as print shows them: prices, dates, addresses, telephone numbers, identifiers."""

from random import Random

from train.data.corpus import Corpus

_DIGITS = "0123456789"
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MONTHS = ("Jan", "März", "avril", "maggio", "junio", "July", "agosto", "Sept.", "Oktober", "décembre")
_DOMAINS = ("com", "org", "net", "de", "fr", "it", "es", "pt", "eu", "info", "co.uk")
# 9 stands for a digit, A for a capital.
_CODES = (
    "AA-999", "A9A 9A9", "#99", "No. 999", "AAA999", "9A-99/9", "AA 99 AA", "99999-999", "Nº 99", "§ 99", "§99a",
    "ISBN 999-9-99", "A.A.", "99 °C", "99ª", "9º",
)  # fmt: skip
_PHONES = ("+99 999 9999", "(999) 999-9999", "0999/999999", "09.99.99.99.99", "+99-99-9999-999", "999 999 999")


def sample_figure(corpus: Corpus, rng: Random) -> str:
    """Draws one item; most are one word, some hold spaces."""
    return rng.choice(_KINDS)(corpus, rng)


def _digits(rng: Random, low: int, high: int) -> str:
    return "".join(rng.choice(_DIGITS) for _ in range(rng.randint(low, high)))


def _filled(pattern: str, rng: Random) -> str:
    return "".join(rng.choice(_DIGITS) if c == "9" else rng.choice(_CAPITALS) if c == "A" else c for c in pattern)


def _name(corpus: Corpus, rng: Random) -> str:
    """A word as it stands in addresses: lower case, ASCII, no apostrophe."""
    while True:
        word = rng.choice(corpus.words["en"]).lower().replace("'", "")
        if word.isascii():
            return word


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
    sign = rng.choice("$€£")
    return rng.choice((sign + number, number + " " + sign, number.replace(".", ",") + sign, "EUR " + number))


def _date(_: Corpus, rng: Random) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1850, 2035)
    name = rng.choice(_MONTHS)
    styles = (
        f"{year}-{month:02}-{day:02}", f"{day:02}/{month:02}/{year}", f"{day}.{month}.{year}", f"{day}. {name} {year}",
        f"{name} {day}, {year}", f"{day:02}-{month:02}-{year % 100:02}", f"{month}/{day}/{year % 100:02}", str(year),
        f"{year}–{year + rng.randint(1, 30)}", f"1ª {name}", f"{day}º {name}",
    )  # fmt: skip
    return rng.choice(styles)


def _time(_: Corpus, rng: Random) -> str:
    hour, minute = rng.randrange(24), rng.randrange(60)
    half = rng.choice(("am", "pm", "AM", "PM"))
    return rng.choice((f"{hour:02}:{minute:02}", f"{hour % 12 + 1}:{minute:02} {half}", f"{hour}h{minute:02}"))


def _percent(_: Corpus, rng: Random) -> str:
    number = rng.choice((str(rng.randrange(101)), f"{rng.random() * 100:.1f}", f"{rng.random() * 100:.2f}"))
    before = rng.choice(("", "", "", "", "+", "-", "~", "<", ">"))
    return before + number.replace(".", rng.choice(".,")) + rng.choice(("%", "%", "%", " %", "°", "°C"))


def _email(corpus: Corpus, rng: Random) -> str:
    second = rng.choice((_name(corpus, rng), _digits(rng, 0, 3)))
    user = _name(corpus, rng) + rng.choice(("", ".", "_", "-", "+")) + second
    return f"{user}@{_name(corpus, rng)}.{rng.choice(_DOMAINS)}"


def _url(corpus: Corpus, rng: Random) -> str:
    host = _name(corpus, rng) + "." + rng.choice(_DOMAINS)
    path = "".join("/" + _name(corpus, rng) for _ in range(rng.randrange(3)))
    query = rng.choice(("", "", f"?{_name(corpus, rng)}={_digits(rng, 1, 4)}", ".html", f"#{_name(corpus, rng)}"))
    return rng.choice(("http://", "https://", "www.", "https://www.", "")) + host + path + query


def _code(_: Corpus, rng: Random) -> str:
    return _filled(rng.choice(_CODES), rng)


def _phone(_: Corpus, rng: Random) -> str:
    return _filled(rng.choice(_PHONES), rng)


def _identifier(corpus: Corpus, rng: Random) -> str:
    first, second = _name(corpus, rng), _name(corpus, rng)
    styles = (
        f"{first}_{second}", f"{first}{second.capitalize()}", f"{first}.{second}()", f"--{first}-{second}",
        f"${{{first}}}", f"/{first}/{second}", f"{first}[{_digits(rng, 1, 2)}]", f"{first}={second}", f"<{first}>",
        f"C:\\{first}", f"{first}|{second}", f"`{first}`", f"~/{first}", f"{first}^{_digits(rng, 1, 1)}",
        f"{first} & {second}", f"*{first}*",
    )  # fmt: skip
    return rng.choice(styles)


def _arithmetic(_: Corpus, rng: Random) -> str:
    a, b = _digits(rng, 1, 3), _digits(rng, 1, 3)
    sign = rng.choice("+-*/=<>x:")
    return rng.choice((f"{a} {sign} {b}", f"{a}{sign}{b}", f"({a}; {b})", f"{a}-{b}"))


_KINDS = (
    _integer, _grouped, _price, _price, _date, _date, _time, _percent, _percent, _email, _url, _code, _code, _phone,
    _identifier, _arithmetic,
)  # fmt: skip
