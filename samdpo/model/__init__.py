"""What a trained model does: encode, prompts, places, masks. Training and inference stand on it."""
