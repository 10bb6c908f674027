"""Kafka brokers: how to reach them, a built-in one, and the topics on them."""
