"""Answers about an image: measured on the coarse mask, or given by a model that sees the image."""
