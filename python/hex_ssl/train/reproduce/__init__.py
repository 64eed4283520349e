"""The paper's experiments, and ours, from declarative files: runs, figures beside the paper's, and a table.

An experiment is a YAML file in `experiments`: rows are changes to a recipe, each at the scales smoke, small, gpu
and paper.
"""

from hex_ssl.train.reproduce.settings import ReproduceConfig as ReproduceConfig
