"""``symcache completion``: scripts that let a shell complete commands, options and their values."""

from __future__ import annotations

import sys

import click
from click.shell_completion import ShellComplete, get_completion_class

from symcache.cli.options import color_option
from symcache.errors import UsageError

_SHELLS = ("bash", "zsh", "fish", "powershell")

# Where a completer says nothing, PowerShell offers paths, which is what it has to do for files and folders, quoting
# included; the empty text keeps it from that. It loses empty arguments and quotes within arguments, so that the words
# go through standard input. click's own script, which not every version has, knows neither.
# Source: Register-ArgumentCompleter, "-Native"; about_Parsing, "Passing arguments that contain quote characters".
_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName symcache -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition } | ForEach-Object {
        if ($_ -is [System.Management.Automation.Language.StringConstantExpressionAst]) { $_.Value }
        else { $_.Extent.Text }
    })
    $found = @(($words + "$wordToComplete") -join "`n" | & symcache completion powershell --answer 2>$null)
    if ($found -match "^(file|dir)`t") { return }
    if (-not $found) { return '' }
    foreach ($line in $found) {
        $type, $value, $help = $line.Split("`t")
        [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $help)
    }
}
"""


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.option(
    "--answer", is_flag=True, help="Complete the last of the lines of standard input, for PowerShell's script."
)
@color_option
def completion_command(shell: str, answer: bool) -> None:
    """Print the script that lets SHELL complete commands, options, their values and files.

    bash, in ~/.bashrc: eval "$(symcache completion bash)"; zsh, in ~/.zshrc behind compinit, the same with zsh; fish,
    in ~/.config/fish/config.fish: symcache completion fish | source; PowerShell, in $PROFILE: symcache completion
    powershell | Out-String | Invoke-Expression
    """
    root = click.get_current_context().find_root().command
    if shell == "powershell":
        text = _answer(root, sys.stdin.read()) if answer else _POWERSHELL
    elif answer:
        raise UsageError(f"--answer is for PowerShell; {shell} hands its words over otherwise")
    else:
        completer = get_completion_class(shell)
        assert completer is not None
        text = completer(root, {}, "symcache", "_SYMCACHE_COMPLETE").source()  # the variable that click looks for
    click.echo(text.encode(), nl=False)  # shells of Unix on Windows take no CR


def _answer(root: click.Command, lines: str) -> str:
    """Return what can stand for the last of *lines*, the words of a command: kind, value and help, with tabs between.

    *lines* end in one line end more than the words need, which PowerShell adds.
    """
    _program, *words, incomplete = lines.removesuffix("\n").removesuffix("\r").split("\n")
    # What is offered takes the place of the whole word, and click completes the value alone.
    option = incomplete[: incomplete.index("=") + 1] if incomplete.startswith("--") and "=" in incomplete else ""
    found = ShellComplete(root, {}, "symcache", "").get_completions(words, incomplete)
    rows = ((each.type, option + each.value, " ".join((each.help or each.value).split())) for each in found)
    return "".join("\t".join(row) + "\n" for row in rows)
