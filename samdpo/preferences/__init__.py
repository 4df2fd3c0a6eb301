"""Candidates, who ranks them, and the loss that learns from the ranking (paper Sec. 3.2)."""
