"""Tests of pretraining, evaluation and analysis."""
