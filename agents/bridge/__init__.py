"""The bridge: HTTP on one side, the stream on the other."""
