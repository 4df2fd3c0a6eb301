"""The networks that a plan can name: published SAM-type models, and a tiny one for tests."""
