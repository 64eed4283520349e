"""Pretraining, evaluation and analysis around the losses. Needs the extra `train`."""
