"""What receipts and signs say."""

from random import Random
from string import capwords

from train.data.corpus import LANGUAGES, Corpus, clean
from train.data.figures import sample_figure

_TOTALS = (
    "TOTAL", "SUBTOTAL", "SUB-TOTAL", "GRAND TOTAL", "TOTAL SALES", "CASH", "CHANGE", "ROUNDING", "BALANCE DUE",
    "DISCOUNT", "TAX", "VAT 20%", "GST 6%", "MwSt 19%", "TVA 5,5%", "IVA 22%", "Summe", "Gesamt", "Total TTC", "Totale",
    "Importe", "Troco", "Rendu", "Bar", "VISA", "MASTERCARD", "Card payment", "Amount", "Net", "Tip", "Items",
)  # fmt: skip
_HEADS = (
    "Invoice No", "INVOICE", "Receipt #", "Receipt No.", "Bill No", "Order", "Table", "Cashier", "Till", "Terminal",
    "Tel", "TEL", "Fax", "Date", "DATE", "Time", "Doc No.", "Ref", "VAT No", "GST ID", "Reg No", "Kasse", "Beleg",
    "Ticket", "Nr.", "Approval code", "Trace no", "Member",
)  # fmt: skip
_PHRASES = (
    "THANK YOU", "Thank you, please come again!", "CUSTOMER COPY", "TAX INVOICE", "Goods sold are not returnable",
    "Vielen Dank für Ihren Einkauf!", "Merci de votre visite", "Grazie e arrivederci", "Gracias por su visita",
    "Obrigado pela preferência", "*** COPY ***", "---- PAID ----", "Have a nice day", "QTY DESCRIPTION PRICE",
)  # fmt: skip
_MONEY = ("{}", "{}", "{}", "${}", "RM {}", "€ {}", "{} €", "£{}", "{} EUR", "{}-", "{} A", "{}*")


def sample_receipt(corpus: Corpus, rng: Random, *, max_chars: int) -> str:
    """Draws a line of a receipt, of 1 to `max_chars` characters of ALPHABET: an item and its price, a total, an
    address, a number, a phrase."""
    while True:
        kind = rng.random()
        if kind < 0.4:
            text = _item(corpus, rng)
        elif kind < 0.6:
            text = f"{rng.choice(_TOTALS)}{rng.choice((' ', ': ', ' : ', ' = '))}{_money(rng)}"
        elif kind < 0.75:
            text = f"{rng.choice(_HEADS)}{rng.choice((': ', ' : ', ' ', ':'))}{sample_figure(corpus, rng)}"
        elif kind < 0.82:
            text = rng.choice(_PHRASES)
        elif kind < 0.9:
            text = " ".join(
                (_word(corpus, rng).title(), rng.choice(("St.", "Street", "Ltd", "Str.", "12", "4a", "& Co")))
            )
        else:
            text = sample_figure(corpus, rng)
        if rng.random() < 0.5:
            text = text.upper()
        cleaned = clean(text)
        if cleaned and len(cleaned) <= max_chars:
            return cleaned


def sample_sign(corpus: Corpus, rng: Random, *, max_chars: int) -> str:
    """Draws one to three words as they stand on signs, of 1 to `max_chars` characters of ALPHABET."""
    while True:
        words = [_word(corpus, rng) for _ in range(rng.choices((1, 2, 3), (8, 2, 1))[0])]
        text = rng.choice((str.upper, str.upper, capwords, str.capitalize, str))(" ".join(words))
        dice = rng.random()
        if dice < 0.15:
            text = sample_figure(corpus, rng)
        elif dice < 0.2:
            text = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(rng.randint(2, 8)))
        elif dice < 0.28:
            text += rng.choice("!?.,:'&")
        cleaned = clean(text)
        if cleaned and len(cleaned) <= max_chars:
            return cleaned


def _item(corpus: Corpus, rng: Random) -> str:
    words = [_word(corpus, rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.3:
        words.append(rng.choice(("500g", "1L", "1KG", "6PK", "330ML", "250 g", "XL", "x2", "12's", "0.75l")))
    if rng.random() < 0.4:
        words.insert(0, rng.choice((str(rng.randint(1, 12)), f"{rng.randint(1, 9)} x", f"{rng.randrange(10**6):06}")))
    if rng.random() < 0.7:
        words.append(_money(rng))
    return " ".join(words)


def _money(rng: Random) -> str:
    number = f"{rng.randrange(10 ** rng.randint(1, 4))}{rng.choice('...,')}{rng.randrange(100):02}"
    return rng.choice(_MONEY).format(number)


def _word(corpus: Corpus, rng: Random) -> str:
    return rng.choice(corpus.words["en" if rng.random() < 0.5 else rng.choice(LANGUAGES)])
