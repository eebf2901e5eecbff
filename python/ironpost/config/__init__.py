"""Configuration: one model tree, four layers, checked once when merged.

``load`` merges and checks, ``decide_places`` says which directories are in use on this host.
"""

from ironpost.config.load import DEFAULT_PATH, ConfigInvalid, Loaded, environment_variables, load
from ironpost.config.models import Configuration
from ironpost.config.places import (
    Places,
    client_data_dirs,
    client_sockets,
    decide_places,
    make_private_directory,
    packaged,
)
from ironpost.config.show import example, to_plain, to_toml
from ironpost.config.values import lies_in_roots, mask_secrets, parse_bind

__all__ = [
    "DEFAULT_PATH",
    "ConfigInvalid",
    "Configuration",
    "Loaded",
    "Places",
    "client_data_dirs",
    "client_sockets",
    "decide_places",
    "environment_variables",
    "example",
    "lies_in_roots",
    "load",
    "make_private_directory",
    "mask_secrets",
    "packaged",
    "parse_bind",
    "to_plain",
    "to_toml",
]
