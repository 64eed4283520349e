"""The analysis: figures of feature spaces, tables and pictures, and the page of runs side by side."""
