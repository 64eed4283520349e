"""Reproduces the paper's experiments and ours from YAML files: pretraining runs, and tables compared with the paper.

An experiment is a YAML file in `experiments`. Its rows are changes to a recipe, at the scales smoke, small, gpu and
paper.
"""

from hex_ssl.train.reproduce.settings import ReproduceConfig as ReproduceConfig
