"""What an operator sees: metrics, health pages, logs."""
