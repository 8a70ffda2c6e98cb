"""TrOCR in JAX and Flax: reads images of text lines.

Letters that name array axes everywhere in this library: B batch, K beams (hypotheses of one image), T text,
S memory (patches and special tokens), D width, N heads, H head width, V vocabulary, L cache length.
"""
