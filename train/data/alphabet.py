"""The characters that training lines are written in."""

import string

_ASCII = " " + string.digits + string.ascii_uppercase + string.ascii_lowercase + string.punctuation
_LOWER = "àáâãäæçèéêëìíîïñòóôõöœùúûüÿ"

ACCENTED = _LOWER + _LOWER.upper() + "ß"
"""The letters of ALPHABET that are not ASCII."""

_MARKS = "«»‹›„“”‚‘’–—…¡¿€£§°ªº"

ALPHABET = _ASCII + ACCENTED + _MARKS
"""Printable ASCII, the accented letters of German, French, Italian, Spanish and Portuguese, quotation marks and signs.

An ordered string without duplicates; the order is that of a character tokenizer.
"""
