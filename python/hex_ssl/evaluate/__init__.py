"""Evaluation of representations: k-NN, linear probe, fine-tuning, transfer. Every result carries its protocol.

`run_knn`, `run_probe`, `run_finetune` and `run_transfer` are the commands: from a run folder to a table. What they are
made of takes features and labels alone.
"""

from typing import TYPE_CHECKING

from hex_ssl._on_demand import on_demand

if TYPE_CHECKING:
    from hex_ssl.evaluate._names import *  # noqa: F403  # that module lists them
else:
    __getattr__ = on_demand(__name__)
