"""Texts become vectors: tokens, the embedder protocol, its backends, and the checks before one is trusted."""
