"""Faults on purpose: real brokers and real workers are killed, frozen and cut off, and an audit counts what is left."""
