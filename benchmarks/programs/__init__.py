"""The programs that are measured beside the worker, each in a process of its own."""
