"""Settings: the config file and the environment, read once by `load_config` and passed on as a value."""

from symcache.config.load import debugger_variables, load_config, locate
from symcache.config.values import (
    Breaker,
    Config,
    Exclusions,
    MissSettings,
    Network,
    ParallelRanges,
    Pointers,
    Serve,
    ServerEntry,
    StoreSettings,
    Unc,
)

__all__ = [
    "Breaker",
    "Config",
    "Exclusions",
    "MissSettings",
    "Network",
    "ParallelRanges",
    "Pointers",
    "Serve",
    "ServerEntry",
    "StoreSettings",
    "Unc",
    "debugger_variables",
    "load_config",
    "locate",
]
