"""Settings: the config file and the environment, read once by `load_config` and passed on as a value."""

from symcache.config.aws import AwsProfile, aws_profile, azure_endpoint, google_endpoint
from symcache.config.load import debugger_variables, load_config, load_file, locate
from symcache.config.terminal import TerminalKind, terminal_kind
from symcache.config.values import (
    Breaker,
    BucketEntry,
    BuildSettings,
    ClusterSettings,
    Config,
    Exclusions,
    Inputs,
    MissSettings,
    Network,
    ParallelRanges,
    Pointers,
    Serve,
    ServerEntry,
    StoreSettings,
    Unc,
    bucket_folder,
    read_bucket_url,
)

__all__ = [
    "AwsProfile",
    "Breaker",
    "BucketEntry",
    "BuildSettings",
    "ClusterSettings",
    "Config",
    "Exclusions",
    "Inputs",
    "MissSettings",
    "Network",
    "ParallelRanges",
    "Pointers",
    "Serve",
    "ServerEntry",
    "StoreSettings",
    "TerminalKind",
    "Unc",
    "aws_profile",
    "azure_endpoint",
    "bucket_folder",
    "debugger_variables",
    "google_endpoint",
    "load_config",
    "load_file",
    "locate",
    "read_bucket_url",
    "terminal_kind",
]
