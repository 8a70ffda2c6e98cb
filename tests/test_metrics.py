"""Error rates against jiwer and against the recursive definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import jiwer
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scripts import score_check
from trocr_jax import metrics
from trocr_jax.metrics import cer, wer

CHARACTERS = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])  # jiwer's own default strips the ends first
TEXT = st.text(alphabet="abA .é\u0301\t\u00a0", max_size=12)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    @cache
    def tail(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        return min(tail(i + 1, j) + 1, tail(i, j + 1) + 1, tail(i + 1, j + 1) + (a[i] != b[j]))

    return tail(0, 0)


@given(PAIRS)
def test_cer_equals_jiwer_without_its_strip_and_the_definition(pairs):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    assume(any(references))
    theirs = jiwer.cer(references, hypotheses, reference_transform=CHARACTERS, hypothesis_transform=CHARACTERS)
    assert cer(references, hypotheses) == pytest.approx(theirs)
    assert cer(references, hypotheses) == sum(distance(r, h) for r, h in pairs) / sum(map(len, references))


@given(PAIRS)
def test_wer_equals_jiwer_on_single_spaces_and_the_definition(pairs):
    # jiwer splits at the space character alone; here every white space separates words
    references, hypotheses = ([" ".join(text.split()) for text in side] for side in zip(*pairs, strict=True))
    assume(any(references))
    theirs = jiwer.wer(references, hypotheses)
    assert wer(*map(list, zip(*pairs, strict=True))) == pytest.approx(theirs)
    edits = sum(distance(r.split(), h.split()) for r, h in pairs)
    assert wer(*map(list, zip(*pairs, strict=True))) == edits / sum(len(r.split()) for r in references)


def test_rates_are_of_the_corpus_not_means_of_lines():
    assert cer(["a", "abcdefghi"], ["b", "abcdefghi"]) == 0.1
    assert wer(["a", "b c d"], ["x", "b c d"]) == 0.25


def test_nothing_is_normalised():
    assert cer("Ab.", "ab") == pytest.approx(2 / 3)
    assert cer("é", "e\u0301") == 2.0  # one code point against two
    assert cer("a b", " a b") == pytest.approx(1 / 3)
    assert wer("The end.", "the end") == 1.0


def test_much_inserted_is_more_than_one():
    assert cer("a", "abcd") == 3.0


def test_empty_references():
    assert cer([], []) == wer([], []) == cer([""], [""]) == wer("  ", "") == 0.0
    assert cer("", "a") == wer(["", ""], ["", "x"]) == math.inf
    assert cer(["ab", ""], ["ab", "x"]) == 0.5


def test_generators_are_taken():
    assert cer((text for text in ("ab", "cd")), iter(["ab", "cx"])) == 0.25


@pytest.mark.parametrize("rate", [cer, wer])
def test_different_lengths_are_refused(rate):
    with pytest.raises(ValueError, match="2 references and 1 hypotheses"):
        rate(["a", "b"], ["a"])


@pytest.mark.parametrize("score", [metrics.cer, metrics.wer, metrics.exact_match, metrics.sroie])
@pytest.mark.parametrize("value", [None, math.nan, b"b"])
def test_what_is_no_text_is_named(score, value):
    with pytest.raises(ValueError, match=rf"hypotheses\[1\] is {value!r}, and no text"):
        score(["a", "b"], ["a", value])
    with pytest.raises(ValueError, match=rf"references\[0\] is {value!r}, and no text"):
        score([value], ["a"])


@pytest.mark.parametrize("rate", [cer, wer])
def test_another_choice_of_white_space_is_refused(rate):
    with pytest.raises(ValueError, match="whitespace is 'strip': give 'keep' or 'jiwer'"):
        rate("a ", "a", whitespace="strip")


def test_both_normalisations_equal_jiwer_on_random_unicode():
    pairs = list(score_check.random_pairs(1500, seed=1))
    assert score_check.largest_difference(pairs, "keep") < 1e-12
    assert score_check.largest_difference(pairs, "jiwer") < 1e-12


def test_the_normalisations_differ():
    assert cer(" ab ", "ab") == 0.5
    assert cer(" ab ", "ab", whitespace="jiwer") == 0.0
    assert wer("a\tb", "a b") == 0.0
    assert wer("a\tb", "a b", whitespace="jiwer") == 2.0  # "a\tb" is one word


def test_unicode_forms():
    assert cer("é", "e\u0301", unicode_form="NFC") == wer("é", "e\u0301", unicode_form="NFC") == 0.0
    assert cer("\ufb01n", "fin", unicode_form="NFC") > 0
    assert cer("\ufb01n", "fin", unicode_form="NFKC") == 0.0
    assert metrics.exact_match(["é", "a"], ["e\u0301", "b"]) == 0.0
    assert metrics.exact_match(["é", "a"], ["e\u0301", "b"], unicode_form="NFC") == 0.5


def test_lines_add_up_to_the_rate():
    tally = metrics.character_edits(["abcd", "xy"], ["abd", "xyz"])
    assert tally.numerators.tolist() == [1, 1]
    assert tally.denominators.tolist() == [4, 2]
    assert tally.value == pytest.approx(2 / 6)
    assert tally.select(np.array([True, False])).value == 0.25


def test_sroie_of_hand_checked_lines():
    references = ["TOTAL 12.50", "the the cat", "", "x y"]
    hypotheses = ["12.50 TOTAL", "the cat cat sat", "ghost", ""]
    # line 1: both words wherever they stand; line 2: the, cat of 4 read and 3 written; 7 read, 7 written, 4 matches
    assert metrics.sroie(references, hypotheses) == pytest.approx((4 / 7, 4 / 7, 4 / 7))
    assert metrics.word_precision(references, hypotheses).denominators.tolist() == [2, 4, 1, 0]
    assert metrics.sroie(["a b"], ["A b."]) == (0, 0, 0)  # to the character
    assert metrics.sroie([""], [""]) == (0, 0, 0)
    assert metrics.sroie(["a b c d"], ["a"]) == pytest.approx((1.0, 0.25, 0.4))


def test_sroie_equals_crossing_words_out():
    pairs = [(r.replace("\u0300", "a"), h) for r, h in score_check.random_pairs(300, seed=2)]
    references, hypotheses = map(list, zip(*pairs, strict=True))
    assert metrics.sroie(references, hypotheses) == pytest.approx(score_check.sroie_again(pairs))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "right"),
    [
        ("Café-24", "CAF24", True),  # é is none of the letters a to z
        ("it's", "ITS!", True),
        ("O2", "02", False),
        ("ab", "a b", True),
        ("ﬁ", "fi", False),  # a ligature is no letter a to z
        ("...", "!", True),  # nothing is left of either
        ("a", "", False),
        ("İ", "i", True),  # lower case of İ is i and a combining dot
    ],
)
def test_scene_text_words(reference, hypothesis, right):
    assert metrics.scene_text_accuracy(reference, hypothesis) == right


def test_scene_text_in_one_form():
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    assert metrics.scene_text_accuracy(decomposed, composed) == 0
    assert metrics.scene_text_accuracy(decomposed, composed, unicode_form="NFC") == 1


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
def test_scene_text_equals_the_definition_read_letter_by_letter(pairs):
    def kept(text: str) -> list[str]:
        return [c for c in text.lower() if c in "0123456789abcdefghijklmnopqrstuvwxyz"]

    references, hypotheses = map(list, zip(*pairs, strict=True))
    right = [kept(r) == kept(h) for r, h in pairs]
    assert metrics.scene_text_accuracy(references, hypotheses) == pytest.approx(sum(right) / len(right))


def test_intervals_hold_the_true_rate_as_often_as_they_say():
    held = score_check.coverage(300, lines=100, level=0.9)
    assert 0.85 < held < 0.95  # 0.90 and three standard deviations of a share of 300


def test_intervals_narrow_with_more_lines_and_are_the_same_every_time():
    tally = score_check.lines_with_errors(np.random.default_rng(0), 800)
    few = metrics.interval(tally.select(np.arange(50)))
    many = metrics.interval(tally)
    assert many.low < tally.value < many.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert metrics.interval(tally) == many
    wider = metrics.interval(tally, level=0.99)
    assert wider.low < many.low < many.high < wider.high


def test_an_interval_of_lines_that_are_all_alike_has_no_width():
    assert metrics.interval(metrics.Tally.of([(3, 10)] * 9)) == pytest.approx((0.3, 0.3, 0.3))
    assert metrics.interval(metrics.exact_matches(["a"], ["b"])) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="resamples is 0: give how often lines are to be drawn"):
        metrics.interval(metrics.exact_matches(["a"], ["b"]), resamples=0)
    with pytest.raises(ValueError, match="level is 95"):
        metrics.interval(metrics.exact_matches(["a"], ["b"]), level=95)


def test_a_share_of_lines_has_the_interval_of_wilson():
    """Brown, Cai and DasGupta 2001, eq. 4, by its other form: the shares p with |x - p| = z sqrt(p (1 - p) / n)."""
    z = 1.959963984540054
    for right in (0, 1, 20, 45, 50):
        value, low, high = metrics.interval(metrics.Tally.of([(i < right, 1) for i in range(50)]))
        assert value == right / 50
        for end in (low, high):
            assert abs(value - end) == pytest.approx(z * math.sqrt(end * (1 - end) / 50), abs=1e-12)
        assert low == 0 if right == 0 else low < value
        assert high == 1 if right == 50 else high > value


def test_ends_are_studentized_by_the_linearised_error():
    """Against the definition, line by line and draw by draw."""
    tally = score_check.lines_with_errors(np.random.default_rng(3), 12)
    value, low, high = metrics.interval(tally, resamples=400)
    rng, n = np.random.default_rng(0), 12

    def error(numerators, denominators):
        rate = numerators.sum() / denominators.sum()
        return np.sqrt(((numerators - rate * denominators) ** 2).sum()) / denominators.sum()

    own = error(tally.numerators, tally.denominators)
    ts = []
    for lines in rng.integers(0, n, (400, n)):
        drawn = tally.select(lines)
        spread = error(drawn.numerators, drawn.denominators)
        ts.append((drawn.value - value) / spread if spread else math.copysign(math.inf, drawn.value - value))
    most = 2.25 * 1.959963984540054
    below, above = np.quantile(np.clip(ts, -most, most), [0.025, 0.975])
    assert low == pytest.approx(max(0.0, value - above * own))
    assert high == pytest.approx(value - below * own)
    twice = metrics.Tally(2 * tally.numerators, 2 * tally.denominators)
    apart = metrics.paired_difference(tally, metrics.Tally(tally.numerators * 0, tally.denominators), resamples=400)
    assert (apart.value, apart.low, apart.high) == pytest.approx((-value, -high, -low))
    assert metrics.interval(twice, resamples=400) == pytest.approx((value, low, high))


def test_few_mistakes_do_not_make_an_interval_boundless():
    """Of three wrong lines of 300 by two: Clopper and Pearson 1934 give 0.62 to 8.77 of 600."""
    _, low, high = metrics.interval(metrics.Tally.of([(i < 3, 2) for i in range(300)]))
    assert 0 <= 600 * low < 1.5
    assert 7 < 600 * high < 12


def test_a_system_that_is_better_on_the_same_lines_is_found():
    rng = np.random.default_rng(0)
    first = score_check.lines_with_errors(rng, 500)
    fewer = metrics.Tally(rng.binomial(first.numerators.astype(int), 0.7).astype(float), first.denominators)
    found = metrics.paired_difference(first, fewer)
    assert found.value == fewer.value - first.value < 0
    assert found.high < 0
    assert found.p < 0.01
    assert metrics.paired_difference(first, first).p == 1.0
    with pytest.raises(ValueError, match="500 and of 3 lines"):
        metrics.paired_difference(first, first.select(np.arange(3)))


def test_no_difference_is_seldom_taken_for_one():
    alarms, outside = score_check.false_alarms(200, lines=100)
    assert alarms < 0.05 + 0.047  # three standard deviations of a share of 200
    assert outside < 0.05 + 0.06


def test_edits_spell_both_texts():
    found = list(metrics.edits("modern corn", "modem com!"))
    assert [(e.reference, e.hypothesis) for e in found if not e.equal] == [("rn", "m"), ("rn", "m!")]


@given(TEXT, TEXT)
def test_edits_cover_both_texts_and_cost_the_distance(reference, hypothesis):
    found = list(metrics.edits(reference, hypothesis))
    assert "".join(e.reference for e in found) == reference
    assert "".join(e.hypothesis for e in found) == hypothesis
    assert all(a.equal != b.equal for a, b in pairwise(found))
    changed = sum(max(len(e.reference), len(e.hypothesis)) for e in found if not e.equal)
    assert changed >= distance(reference, hypothesis) == metrics.confusions(reference, hypothesis).total()


def test_confusions_of_characters_and_of_pieces():
    references, hypotheses = ["modern", "corn 0", "abcdef"], ["modem", "com O", "xyzdef"]
    characters = metrics.confusions(references, hypotheses)
    assert characters["0", "O"] == 1
    assert characters.total() == 2 + 3 + 3
    pieces = metrics.confusions(references, hypotheses, longest=2)
    assert pieces["rn", "m"] == 2
    assert pieces["a", "x"] == 1  # "abc" is longer than 2: one by one
    assert metrics.confusions(references, hypotheses, longest=3)["abc", "xyz"] == 1
    assert metrics.confusions("é", "e\u0301", unicode_form="NFC") == {}


def test_calibration_error_of_hand_made_bins():
    confidences = [0.95, 0.95, 0.95, 0.95, 0.55, 0.55]
    right = [True, True, True, False, True, False]
    # 4 of 6 at 0.95 with 0.75 right, 2 of 6 at 0.55 with 0.5 right
    expected = 4 / 6 * 0.2 + 2 / 6 * 0.05
    assert metrics.expected_calibration_error(confidences, right, bins=10) == pytest.approx(expected)
    assert metrics.adaptive_calibration_error(confidences, right, bins=2) == pytest.approx(
        0.5 * abs((0.55 + 0.55 + 0.95) / 3 - 2 / 3) + 0.5 * abs(0.95 - 2 / 3)
    )
    assert metrics.adaptive_calibration_error([0.5] * 100, [True] * 50 + [False] * 50) == 0.0  # as in any order
    bins = metrics.reliability([0.0, 1.0, 0.1], [False, True, True], bins=10)
    assert [(b.low, b.size) for b in bins] == [(0.0, 2), (0.9, 1)]
    assert metrics.expected_calibration_error([], []) == metrics.adaptive_calibration_error([], []) == 0.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.reliability([1.5], [True])
    with pytest.raises(ValueError, match="1 confidences and 2 results"):
        metrics.reliability([0.5], [True, True])


def test_confidences_that_are_probabilities_have_no_calibration_error():
    rng = np.random.default_rng(0)
    confidences = rng.random(200_000)
    right = rng.random(200_000) < confidences
    assert metrics.expected_calibration_error(confidences.tolist(), right.tolist()) < 0.005
    assert metrics.adaptive_calibration_error(confidences.tolist(), right.tolist()) < 0.005
    assert metrics.expected_calibration_error((confidences**0.5).tolist(), right.tolist()) > 0.1


def test_risk_coverage_of_hand_made_lines():
    errors = metrics.Tally.of([(0, 10), (1, 10), (5, 10), (0, 20)])
    curve = metrics.risk_coverage([0.9, 0.5, 0.1, 0.5], errors)
    assert [(p.kept, p.coverage, p.confidence) for p in curve] == [(1, 0.25, 0.9), (3, 0.75, 0.5), (4, 1.0, 0.1)]
    assert [p.risk for p in curve] == pytest.approx([0.0, 1 / 40, 6 / 50])
    assert metrics.area_under_risk_coverage(curve) == pytest.approx((0 + 2 / 40 + 6 / 50) / 4)
    assert metrics.risk_coverage([], metrics.Tally.of([])) == []
    with pytest.raises(ValueError, match="2 confidences and 4 lines"):
        metrics.risk_coverage([1, 2], errors)


def test_throughput():
    found = metrics.Throughput(lines=20, characters=300, seconds=4.0)
    assert (found.lines_per_second, found.characters_per_second) == (5.0, 75.0)


def tally(*pairs):
    return metrics.Tally.of(pairs)


def test_ends_of_shares_and_rates_stay_where_scores_can_be():
    low_end = metrics.interval(tally((3, 10), *[(0, 10)] * 4))
    assert low_end.low == 0.0 < low_end.value
    high_end = metrics.interval(tally((7, 10), *[(10, 10)] * 4))
    assert high_end.high == 1.0 > high_end.value


def test_the_difference_of_shares_is_between_minus_one_and_one():
    worst, best = tally(*[(0, 10)] * 4, (9, 10)), tally(*[(10, 10)] * 4, (9, 10))
    found = metrics.paired_difference(worst, best)
    assert -1 <= found.low <= found.value <= found.high <= 1
    found = metrics.paired_difference(best, worst)
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_the_probability_of_a_difference_by_hand():
    none = tally(*[(0, 1)] * 40)
    one = tally((1, 1), *[(0, 1)] * 39)
    assert metrics.paired_difference(none, one, resamples=99).p == 1.0  # exchanged or not, it is as large
    every = tally(*[(1, 1)] * 40)
    assert metrics.paired_difference(none, every, resamples=99).p == 1 / 100  # never 0


def test_a_calibration_error_is_not_negative_and_nan_no_confidence():
    assert metrics.debiased_calibration_error([0.5, 0.5], [True, False]) == 0.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.reliability([math.nan], [True])


def test_chance_is_counted_in_the_same_bins():
    expected = math.sqrt(2 / math.pi) * (math.sqrt(0.5 * 0.5) + math.sqrt(0.75 * 0.25)) / 2
    assert metrics.calibration_error_by_chance([0.5, 0.75], bins=2) == pytest.approx(expected)  # 0.5 is in the lower
