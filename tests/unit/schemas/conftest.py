"""Settings of these tests."""

from hypothesis import settings

# How long an example takes depends on the machine and its load; it says nothing about the codec.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
