"""Tests of the data: catalogue, views, batches."""
