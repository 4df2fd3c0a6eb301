"""The trainer and its two stages, data loading, views, checkpoints and logs."""
