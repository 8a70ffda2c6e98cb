"""What the scores of an evaluation are called."""

from __future__ import annotations

LOWER_IS_BETTER = {"cer", "cer_jiwer", "wer", "wer_jiwer"}
TITLES = {
    "cer": "CER",
    "cer_jiwer": "CER, ends stripped (jiwer)",
    "wer": "WER",
    "wer_jiwer": "WER, jiwer's spaces",
    "exact": "lines without a mistake",
    "word_precision": "word precision (SROIE)",
    "word_recall": "word recall (SROIE)",
    "word_f1": "word F1 (SROIE)",
    "scene_text_accuracy": "word accuracy (scene text)",
}
