"""Optimizers, parameter groups and learning rate schedules."""

from hex_ssl.train.extras import train_extra

with train_extra():
    from hex_ssl.train.optim.build import build_optimizer as build_optimizer
    from hex_ssl.train.optim.build import configure_optimizer as configure_optimizer
    from hex_ssl.train.optim.build import images_per_step as images_per_step
    from hex_ssl.train.optim.schedule import Lengths as Lengths
    from hex_ssl.train.optim.schedule import build_schedule as build_schedule
    from hex_ssl.train.optim.schedule import warmup_cosine as warmup_cosine
