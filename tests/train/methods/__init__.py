"""Tests of the methods. They need the extra `train`."""
