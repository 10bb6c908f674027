"""Every figure that the README quotes, as ratios of things measured in the same run, in turn, on the same machine."""
