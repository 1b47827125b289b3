"""What AWS's own files say of credentials, region and server: ``~/.aws/credentials`` and ``~/.aws/config``.

The environment's variables are read by obstore itself, as are the identities of containers and virtual machines.
Source: AWS SDKs and Tools Reference Guide, "Shared config and credentials files".
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from symcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "token",
}
# What comes before the files: keys, or the identity that a container or a web token gives.
_IDENTITIES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_ELSEWHERE = ("sso_session", "sso_start_url", "role_arn", "credential_process", "login_session")
_LARGEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class AwsProfile:
    """One profile; *keys* are what obstore wants of a provider of credentials, none where the environment has some."""

    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    region: str | None = None
    endpoint: str | None = None


def aws_profile(name: str | None, environ: Mapping[str, str] | None = None, *, anonymous: bool = False) -> AwsProfile:
    """Return what the files say of the profile *name*, else of ``AWS_PROFILE``, else of ``default``.

    Raises:
        ConfigError: A file that is none, a profile that is not there, or one whose keys other programs hold, or half
            of them is missing; if *anonymous*, keys are not looked for.
    """
    variables = os.environ if environ is None else environ
    named = name or variables.get("AWS_PROFILE") or None
    fields = _read_profile(named, variables)
    keys = {ours: fields[theirs] for theirs, ours in _KEYS.items() if fields.get(theirs)}
    if anonymous or (name is None and any(variables.get(each) for each in _IDENTITIES)):
        keys = {}
    elif keys and not {"access_key_id", "secret_access_key"} <= keys.keys():
        problem = "it has one of aws_access_key_id and aws_secret_access_key alone"
        raise ConfigError(problem, where=f"AWS profile {named or 'default'}")
    elif not keys and named is not None and any(each in fields for each in _ELSEWHERE):
        advice = f"`aws configure export-credentials --profile {named} --format env` puts them into the environment"
        raise ConfigError(f"the profile holds no keys itself; {advice}", where=f"AWS profile {named}")
    says_region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    endpoints = (variables.get(each) for each in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
    return AwsProfile(
        keys,
        None if says_region else fields.get("region") or None,
        next((each for each in endpoints if each), None) or fields.get("endpoint_url") or None,
    )


def azure_endpoint(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the server of an Azure account that the environment names; None for Azure's own."""
    variables = os.environ if environ is None else environ
    return variables.get("AZURE_STORAGE_ENDPOINT") or variables.get("AZURE_ENDPOINT") or None


def google_endpoint(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the server that the environment names in Google's place; None for Google's own."""
    variables = os.environ if environ is None else environ
    return variables.get("GOOGLE_BASE_URL") or None


def _read_profile(named: str | None, variables: Mapping[str, str]) -> Mapping[str, str]:
    files = {
        "AWS_CONFIG_FILE": ("config", "default" if named in {None, "default"} else f"profile {named}"),
        "AWS_SHARED_CREDENTIALS_FILE": ("credentials", named or "default"),
    }
    fields: dict[str, str] = {}
    is_there = False
    for variable, (file, section) in files.items():
        try:
            path = Path(variables.get(variable) or Path("~/.aws", file)).expanduser()
            with path.open("rb") as opened:
                text = opened.read(_LARGEST_BYTES).decode("utf-8-sig")
        except (OSError, RuntimeError, UnicodeDecodeError):
            continue  # none that can be read, as for AWS's own tools
        found = _read_section(text, section, path)
        if found is not None:
            is_there = True
            if found.keys() & _KEYS.keys():  # a session's token belongs to its key
                fields = {key: value for key, value in fields.items() if key not in _KEYS}
            fields |= found
    if named is not None and not is_there:
        raise ConfigError(
            "there is no such profile in ~/.aws/config and ~/.aws/credentials", where=f"AWS profile {named}"
        )
    return fields


def _read_section(text: str, section: str, path: Path) -> Mapping[str, str] | None:
    from configparser import ConfigParser, Error  # noqa: PLC0415 - for buckets of S3 alone

    parser = ConfigParser(interpolation=None, default_section="", strict=False)
    try:
        parser.read_string(text)
    except Error as error:
        # Its text shows the line, which may hold a secret.
        raise ConfigError(f"it is not as AWS's tools write it ({type(error).__name__})", where=str(path)) from None
    return dict(parser[section]) if parser.has_section(section) else None
