"""Vectors (or texts) become labels: the scorer protocol and the scorers."""
