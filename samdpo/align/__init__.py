"""Stage 2: learn from preferences."""
