"""Tests of the analysis: measures of features, tables, figures, and the page that compares runs."""
