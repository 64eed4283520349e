"""Pretraining, from recipe to pictures."""
