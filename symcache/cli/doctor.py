"""``symcache doctor``."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, settings_options
from symcache.cli.output import write_json, write_line, write_table

if TYPE_CHECKING:
    from symcache.doctor.finding import Finding


@click.command()
@click.argument("servers", metavar="[SERVER]...", nargs=-1)
@click.option("--offline", is_flag=True, help="Leave the servers alone.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1, max=600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for each stage of one server.",
)
@settings_options()
def doctor_command(settings: Settings, servers: tuple[str, ...], offline: bool, timeout_s: float) -> None:
    """Find out why symbols do not arrive here: servers, proxies, certificates, stores, the debugger's variables.

    SERVER is a name or a URL of `symcache servers`; those of the symbol path by default. Each line is fine, a warning
    or wrong, with what to do. There is nothing secret in it, so that it can be shown to others. The exit code is 1 if
    something is wrong.
    """
    import anyio  # noqa: PLC0415

    from symcache.config import debugger_variables  # noqa: PLC0415
    from symcache.doctor.run import examine  # noqa: PLC0415

    config = settings.load()
    asked = None if offline else list(servers)
    findings = anyio.run(partial(examine, config, debugger_variables(), servers=asked, timeout_s=timeout_s))
    counts = {rating: sum(finding.rating == rating for finding in findings) for rating in ("fine", "warning", "wrong")}
    if settings.as_json:
        rows = [finding.as_json() for finding in findings]
        write_json({"schema": "symcache.doctor/1", "summary": counts, "findings": rows})
    else:
        _write(findings)
        write_line()
        write_line(", ".join(f"{count} {rating}" for rating, count in counts.items()))
    raise Exit(1 if counts["wrong"] else 0)


def _write(findings: list[Finding]) -> None:
    for number, ((area, subject), group) in enumerate(
        groupby(findings, lambda finding: (finding.area, finding.subject))
    ):
        if number:
            write_line()
        write_line(f"{area} {subject}")
        rows = []
        for finding in group:
            rows.append((f"  {finding.rating}", finding.check, finding.text))
            if finding.advice:
                rows.append(("", "", f"-> {finding.advice}"))
        write_table(rows)
