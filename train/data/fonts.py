"""The typefaces that lines are printed in: which are used, where they are, and which characters each can draw."""

import re
import string
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, get_args

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont

from train.data.alphabet import ALPHABET
from train.data.corpus import CorpusError, Split

Style = Literal["printed", "handwriting", "colour", "receipt", "scene"]

STYLES: tuple[Style, ...] = get_args(Style)
_ON_RECEIPTS = {"mono": 8.0, "sans": 1.0, "serif": 0.1}  # times the weight of a family

_FOLDERS = ("usr/share/fonts", "usr/share/texmf/fonts/opentype")


@dataclass(frozen=True)
class Family:
    """A Latin family: the files it owns, how often it is drawn, and whether training may use it.

    Attributes:
      pattern: regular expression for the start of a font file's name, without its extension.
      kind: "serif", "sans", "mono" or "hand".
      weight: relative frequency. Clones of Times, Helvetica and Courier weigh most, as in real scans.
      held_out: never used for training lines.
    """

    name: str
    pattern: str
    kind: str
    weight: float = 1.0
    held_out: bool = False


FAMILIES = (
    Family("Liberation Serif", r"LiberationSerif-", "serif", 5),
    Family("Tinos", r"Tinos-", "serif", 2),
    Family("Nimbus Roman", r"NimbusRoman-", "serif", 5),
    Family("FreeSerif", r"FreeSerif", "serif", 2),
    Family("TeX Gyre Termes", r"texgyretermes-", "serif", 3),
    Family("STIX", r"STIX(General)?-(Regular|Bold|Italic|BoldItalic)", "serif", 2),
    Family("Liberation Sans", r"LiberationSans-", "sans", 6),
    Family("Arimo", r"Arimo-", "sans", 3),
    Family("Nimbus Sans", r"NimbusSans-", "sans", 5),
    Family("FreeSans", r"FreeSans", "sans", 2),
    Family("TeX Gyre Heros", r"texgyreheros-", "sans", 2),
    Family("Liberation Sans Narrow", r"LiberationSansNarrow-", "sans", 1.5),
    Family("Nimbus Sans Narrow", r"NimbusSansNarrow-", "sans", 1),
    Family("TeX Gyre Heros Condensed", r"texgyreheroscn-", "sans", 0.5),
    Family("Liberation Mono", r"LiberationMono-", "mono", 3),
    Family("Cousine", r"Cousine-", "mono", 1.5),
    Family("Nimbus Mono", r"NimbusMonoPS-", "mono", 2),
    Family("FreeMono", r"FreeMono", "mono", 1),
    Family("TeX Gyre Cursor", r"texgyrecursor-", "mono", 1),
    Family("Courier Prime", r"Courier Prime( Bold| Italic| Bold Italic)?$", "mono", 1.5),
    Family("P052", r"P052-", "serif", 2),
    Family("TeX Gyre Pagella", r"texgyrepagella-", "serif", 1),
    Family("C059", r"C059-", "serif", 2),
    Family("TeX Gyre Schola", r"texgyreschola-", "serif", 1),
    Family("URW Bookman", r"URWBookman-", "serif", 1.5),
    Family("TeX Gyre Bonum", r"texgyrebonum-", "serif", 0.5),
    Family("URW Gothic", r"URWGothic-", "sans", 1),
    Family("DejaVu Serif", r"DejaVuSerif", "serif", 2),
    Family("DejaVu Sans", r"DejaVuSans(Condensed)?(-|$)", "sans", 2),
    Family("DejaVu Sans Mono", r"DejaVuSansMono", "mono", 1),
    Family("Latin Modern Roman", r"lmroman(8|9|10|12)-(regular|bold|italic)", "serif", 2),
    Family("Latin Modern Sans", r"lmsans(8|10|12)-(regular|bold|oblique)", "sans", 1),
    Family("Latin Modern Mono", r"lmmono(8|10|12)-(regular|italic)", "mono", 1),
    Family("CMU Serif", r"cmun(rm|bx|ti|bi|sl)$", "serif", 1),
    Family("CMU Sans", r"cmun(ss|sx|si)$", "sans", 0.5),
    Family("CMU Typewriter", r"cmun(tt|tb|it|vt)$", "mono", 0.5),
    Family("Carlito", r"Carlito-", "sans", 2),
    Family("Noto Serif", r"NotoSerif-", "serif", 1.5),
    Family("Noto Sans", r"NotoSans-", "sans", 1.5),
    Family("Noto Sans Mono", r"NotoSansMono-", "mono", 0.5),
    Family("Noto Serif Display", r"NotoSerifDisplay-", "serif", 0.5),
    Family("Lato", r"Lato-", "sans", 1.5),
    Family("Open Sans", r"OpenSans-", "sans", 1.5),
    Family("Roboto", r"Roboto(Condensed)?-", "sans", 1.5),
    Family("Roboto Slab", r"RobotoSlab-", "serif", 0.7),
    Family("EB Garamond", r"EBGaramond", "serif", 1.5),
    Family("Junicode", r"JunicodeTwoBeta-(Regular|Bold|Italic|Medium)", "serif", 1),
    Family("Charis SIL", r"CharisSIL-", "serif", 1.5),
    Family("Doulos SIL", r"DoulosSIL-", "serif", 1),
    Family("Andika", r"Andika-", "sans", 0.7),
    Family("Galatia SIL", r"GalSIL", "serif", 0.5),
    Family("Cantarell", r"Cantarell-", "sans", 1),
    Family("Hack", r"Hack-", "mono", 0.5),
    Family("Inconsolata", r"Inconsolata", "mono", 0.5),
    Family("Anonymous Pro", r"Anonymous Pro( B| I| BI)?$", "mono", 0.5),
    Family("Fira Code", r"FiraCode-", "mono", 0.5),
    Family("mononoki", r"mononoki-", "mono", 0.4),
    Family("Go", r"Go-(?!Mono|Smallcaps)", "sans", 0.7),
    Family("Go Mono", r"Go-Mono", "mono", 0.5),
    Family("OCR-B", r"OCRB$", "mono", 0.5),
    Family("B612", r"B612-", "sans", 0.6),
    Family("B612 Mono", r"B612Mono-", "mono", 0.4),
    Family("Vollkorn", r"Vollkorn-", "serif", 1),
    Family("Cardo", r"Cardo", "serif", 1),
    Family("Goudy Bookletter 1911", r"GoudyBookletter1911", "serif", 0.7),
    Family("Prociono", r"Prociono", "serif", 0.4),
    Family("Quattrocento", r"Quattrocento-", "serif", 0.5),
    Family("Century Catalogue", r"Century-Catalogue", "serif", 0.7),
    Family("GFS Didot", r"GFSDidot", "serif", 1),
    Family("GFS Artemisia", r"GFSArtemisia(Bold)?$", "serif", 1),
    Family("Accanthis ADF", r"AccanthisADFStd", "serif", 0.7),
    Family("Baskervald ADF", r"BaskervaldADFStd", "serif", 0.8),
    Family("Berenis ADF", r"BerenisADFPro-", "serif", 0.7),
    Family("Romande ADF", r"RomandeADF(No2)?Std-", "serif", 0.7),
    Family("Gillius ADF", r"GilliusADF", "sans", 0.8),
    Family("Universalis ADF", r"UniversalisADFStd-", "sans", 0.7),
    Family("Verana ADF", r"VeranaSans-", "sans", 0.5),
    Family("Averia Serif", r"AveriaSerifGWF-", "serif", 0.4),
    Family("Inter", r"Inter-", "sans", 1),
    Family("Manrope", r"Manrope-", "sans", 0.5),
    Family("Tuffy", r"Tuffy", "sans", 0.5),
    Family("Dosis", r"Dosis-", "sans", 0.3),
    Family("Caladea", r"Caladea-", "serif", 1, held_out=True),
    Family("Linux Libertine", r"LinLibertine_R(B|I|BI|Z|ZI)?$", "serif", 1, held_out=True),
    Family("Gentium", r"Gentium(Plus|BookPlus|-)", "serif", 1, held_out=True),
    Family("Tribun ADF", r"TribunADFStd-(Regular|Bold|Italic|BoldItalic|Medium)", "serif", 1, held_out=True),
    Family("Linux Biolinum", r"LinBiolinum_R(B|I)?$", "sans", 1, held_out=True),
    Family("Cabin", r"Cabin-", "sans", 1, held_out=True),
    Family("Clear Sans", r"ClearSans-", "sans", 1, held_out=True),
    Family("JetBrains Mono", r"JetBrainsMono-", "mono", 1, held_out=True),
)
"""Every family used, in a fixed order; held-out families are designs with no near relative among the others."""

HANDWRITING = (
    Family("Dancing Script", r"DancingScript-", "hand", 1),
    Family("dkg handwriting", r"dkg(It|Bd|BI)?$", "hand", 2),
    Family("Breip", r"Breip$", "hand", 2),
    Family("Klee One", r"KleeOne-", "hand", 1),
    Family("Kristi", r"Kristi$", "hand", 1.5),
    Family("Leckerli One", r"LeckerliOne-", "hand", 0.5),
    Family("Rufscript", r"Rufscript", "hand", 1.5),
    Family("Delphine", r"Delphine$", "hand", 1.5),
    Family("Havana", r"Havana-", "hand", 1.5),
    Family("Ecolier", r"Ecolier-court", "hand", 0.7),
    Family("Comic Neue", r"ComicNeue-", "hand", 0.5),
    Family("Kaushan Script", r"KaushanScript-", "hand", 1, held_out=True),
    Family("SteveHand", r"SteveHand$", "hand", 2, held_out=True),
    Family("Yusei Magic", r"YuseiMagic-", "hand", 1, held_out=True),
)
"""Faces that look written. Those whose small letters are drawn as capitals are not among them."""

_HANDWRITING_PACKAGES = (
    "fonts-dancingscript fonts-dkg-handwriting fonts-breip fonts-klee fonts-kristi fonts-leckerli-one fonts-rufscript "
    "fonts-sjfonts fonts-havana fonts-ecolier-court fonts-comic-neue fonts-kaushanscript fonts-yusei-magic"
)

# How often a style is printed, against 1 for regular. The first pattern that is found in the file name counts.
_STYLES = (
    (re.compile(r"bold-?(italic|oblique|cond)|demi-?(italic|oblique)|BI$|RZI$|BdIta|cmunbi", re.I), 0.3),
    (re.compile(r"light|retina|cond|narrow", re.I), 0.4),
    (re.compile(r"italic|oblique|[-_ ]I$|BookOblique|It$|_RI$|cmun(ti|si|it|sl)|i99", re.I), 0.45),
    (re.compile(r"bold|demi|[-_ ]B$|_R[BZ]$|cmun(bx|tb|sx)|b101|SILB", re.I), 0.6),
)
_UNUSED_STYLE = re.compile(r"Thin|Hairline|ExtraLight|ExtraBold|Black|Heavy|Math|Smallcaps", re.I)


@dataclass(frozen=True)
class Face:
    """One font file, the characters of ALPHABET it can draw, and its share among the faces of a split."""

    path: str
    family: Family
    weight: float
    characters: frozenset[str]

    def covers(self, text: str) -> bool:
        """Whether every character of the text has a glyph."""
        return self.characters.issuperset(text)


def find_faces(split: Split, *, style: Style = "printed", root: Path = Path("/")) -> tuple[Face, ...]:
    """Finds the installed faces of a split, in a fixed order; the faces of a family share its weight.

    A printed face is used only if it draws all printable ASCII; a handwriting face, if it draws letters and digits.
    Receipts are printed in faces of one width for the most part, scenes show all faces.

    Raises:
      CorpusError: too few families are installed, or no printed face draws the whole alphabet.
    """
    files = sorted(
        p for folder in _FOLDERS for p in (root / folder).rglob("*.[ot]tf") if not _UNUSED_STYLE.search(p.stem)
    )
    if style == "scene":
        return find_faces(split, root=root) + find_faces(split, style="handwriting", root=root)
    if style == "receipt":
        faces_of_print = find_faces(split, root=root)
        return tuple(replace(f, weight=f.weight * _ON_RECEIPTS[f.family.kind]) for f in faces_of_print)
    written = style == "handwriting"
    needed = set(" " + string.ascii_letters + string.digits) if written else set(map(chr, range(32, 127)))
    faces: list[Face] = []
    for family in HANDWRITING if written else FAMILIES:
        if family.held_out != (split == "heldout"):
            continue
        # The same file name may be installed by two packages (liberation, liberation2): the last one counts.
        own = {p.name: p for p in files if re.match(family.pattern, p.stem)}
        drawn = {p: drawn_characters(p) for p in own.values()}
        usable = [p for p in own.values() if drawn[p].issuperset(needed)]
        shares = [_style_share(p.stem) for p in usable]
        faces += [
            Face(str(p), family, family.weight * share / sum(shares), drawn[p])
            for p, share in zip(usable, shares, strict=True)
        ]
    families = {face.family.name for face in faces}
    if written and len(families) < 2:
        raise CorpusError(
            f"Too few handwriting faces for the {split} split below {root}: install them with scripts/install-fonts "
            f"(Debian: {_HANDWRITING_PACKAGES})."
        )
    if not written and (len(families) < 5 or not any(face.covers(ALPHABET) for face in faces)):
        raise CorpusError(
            f"Too few typefaces for the {split} split below {root}: install them with scripts/install-fonts."
        )
    return tuple(faces)


def _style_share(stem: str) -> float:
    return next((share for pattern, share in _STYLES if pattern.search(stem)), 1.0)


@cache  # a style may look at the faces of another
def drawn_characters(path: Path) -> frozenset[str]:
    """The characters of ALPHABET that a font file maps to a glyph with ink (the space needs none)."""
    try:
        with path.open("rb") as file, TTFont(file, lazy=True) as font:
            mapped = set(font.getBestCmap() or ())
    except (TTLibError, OSError):
        return frozenset()
    image_font = ImageFont.truetype(str(path), 12, layout_engine=ImageFont.Layout.BASIC)
    return frozenset(c for c in ALPHABET if ord(c) in mapped and (c == " " or image_font.getmask(c).getbbox()))


@lru_cache(maxsize=512)
def open_face(path: str, size: int) -> ImageFont.FreeTypeFont:
    """The face at a size in pixels per em. Cached: opening costs as much as drawing a line."""
    return ImageFont.truetype(path, size)
