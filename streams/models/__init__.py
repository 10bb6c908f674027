"""Models that are trained, kept, switched: what is known of them, and where their bytes lie."""
