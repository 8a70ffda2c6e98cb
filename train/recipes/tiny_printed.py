"""tiny-printed, the built-in model: printed Latin lines, 3.7 M parameters.

Command:   python -m train run tiny-printed
Hardware:  2 cores of an AMD EPYC, shared with other work
Time:      98 minutes, 280,000 lines (2026-11-20)
Score:     CER 3.91 % on 1,000 rendered lines in held-out typefaces, 1.41 % on sentences alone, 0.59 % on 20 real lines;
           tiny-printed-further goes on from these weights
"""

from train.data.text import ALPHABET
from train.input import FIRST_CHARACTER_ID
from train.recipe import Optimizer, Recipe, Stage
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig

CONFIG = TrOCRConfig(
    encoder=EncoderConfig(
        image_size=(40, 960), patch_size=(40, 10), hidden_size=192, num_layers=5, num_heads=3, intermediate_size=768
    ),
    decoder=DecoderConfig(
        vocab_size=FIRST_CHARACTER_ID + len(ALPHABET),
        hidden_size=192,
        num_layers=2,
        num_heads=3,
        intermediate_size=768,
        max_position_embeddings=256,
        cross_attention_hidden_size=192,
        dropout=0.0,
    ),
)

RECIPE = Recipe(
    name="tiny-printed",
    config=CONFIG,
    stages=(
        # the encoder learns to see: CTC alone, short lines
        Stage(steps=1000, batch_size=96, width=240, max_chars=10, cross_entropy_weight=0.0, ctc_weight=1.0),
        # the decoder learns to look
        Stage(steps=500, batch_size=96, width=320, max_chars=16, ctc_weight=0.5),
        Stage(steps=1000, batch_size=64, width=560, max_chars=32, ctc_weight=0.3),
        # whole lines on the whole canvas
        Stage(steps=1500, batch_size=48, width=960, max_chars=72, ctc_weight=0.2),
    ),
    optimizer=Optimizer(
        method="muon",
        learning_rate=2e-3,
        schedule="constant",
        warmup_steps=200,
        warmup_from=0.0,
        decay_steps=600,
        b2=0.99,
        weight_decay=0.01,
        clip_norm=1.0,
    ),
    token_noise=0.1,
    dtype="float32",
    log_every=20,
    save_every=200,
)
