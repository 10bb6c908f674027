"""The bridge under load: open and closed loop, each figure beside the limit of its parts on the same run."""
