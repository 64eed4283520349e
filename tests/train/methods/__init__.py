"""Tests of the methods: the extra `train` is there."""
