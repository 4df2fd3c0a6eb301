"""What a dataset is like (fingerprint), what to do with it (plan), and who trains and validates (splits)."""
