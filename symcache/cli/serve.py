"""``symcache serve``."""

from __future__ import annotations

import logging
import secrets
import sys
from dataclasses import replace
from typing import Any

import click

from symcache.cli.options import Settings, complete_files, settings_options
from symcache.cli.output import write_line


@click.command()
@click.option(
    "--host", metavar="ADDRESS", help="Listen on this address; 0.0.0.0 for all. Default: serve.host, 127.0.0.1."
)
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port; 0 for any free one. Default: 8080.")
@click.option("--workers", type=click.IntRange(1, 64), help="Number of worker processes. Default: 1.")
@click.option(
    "--access-log",
    metavar="FILE",
    shell_complete=complete_files,
    help="Append a line of JSON for each request; - for standard error.",
)
@click.option("--hash-password", metavar="NAME", help="Ask for a password, print the line for serve.users, and end.")
@click.option("--new-token", is_flag=True, help="Print a new token and its hash for serve.tokens, and end.")
@settings_options(json=False)
def serve_command(settings: Settings, hash_password: str | None, new_token: bool, **said: Any) -> None:
    """Serve the store and its upstreams over HTTP, one shared cache for a whole team.

    What is not in the store is fetched once, however many ask, checked, and passed on while it arrives. Everything
    else is set under [serve] in the config file.
    """
    if hash_password is not None or new_token:
        _print_secret(hash_password)
        return
    from symcache.server import listen, serve  # noqa: PLC0415 - not needed for --help

    config = settings.load()
    config = replace(
        config, serve=replace(config.serve, **{name: value for name, value in said.items() if value is not None})
    )
    level = logging.ERROR if settings.quiet else logging.INFO if settings.verbose else logging.WARNING
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level, stream=sys.stderr)
    # They log URLs and fields of responses, where a signed redirect target is secret, and each change of a file.
    for name in ("httpx", "httpcore", "watchfiles"):
        logging.getLogger(name).setLevel(logging.WARNING)
    listening = listen(config)
    settings.note(f"serving {config.symbol_path.redacted()} on {listening.url}/")
    settings.note(f"give this to debuggers: srv*C:\\Symbols*{listening.url}/")
    serve(config, listening)


def _print_secret(user: str | None) -> None:
    from symcache.server import hash_password, hash_token  # noqa: PLC0415

    if user is not None:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        write_line(f"{user}:{hash_password(password)}")
    else:
        token = secrets.token_urlsafe(32)
        write_line(token)
        write_line(hash_token(token))
