"""Published weights: which files there are, where they lie or come from, and reading them without unpickling."""
