"""Fakes that are part of the product: users of this package test with them too."""

from streams.testing.embedder import DeterministicEmbedder
from streams.testing.publisher import InMemoryPublisher, PublishedRecord

__all__ = ["DeterministicEmbedder", "InMemoryPublisher", "PublishedRecord"]
