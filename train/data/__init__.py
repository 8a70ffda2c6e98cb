"""Training lines: free text, free typefaces and scanner damage put together by a seed and an index."""
