"""SAM-type networks with text prompts, their weights, freezing, precision and kept embeddings."""
