"""What runs: the command line, the composition root, the Faust agents."""
