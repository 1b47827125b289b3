"""What the environment tells of the terminal."""

from __future__ import annotations

import os
from dataclasses import dataclass

# Programs that are known to open links of OSC 8 and to leave alone what they do not know of it, as they name themselves
# in TERM_PROGRAM or TERM; of VTE and Konsole the first versions that do.
_PROGRAMS = frozenset({"ghostty", "iTerm.app", "vscode", "WezTerm"})
_TERMS = frozenset({"alacritty", "contour", "foot", "foot-extra", "wezterm", "xterm-ghostty", "xterm-kitty"})
_VTE, _KONSOLE = 5001, 201200
# There a path may name another file to the terminal, or none; and multiplexers pass links on or do not.
_BETWEEN = ("SSH_CONNECTION", "SSH_TTY", "WSL_DISTRO_NAME", "TMUX", "STY", "ZELLIJ")


@dataclass(frozen=True, slots=True)
class TerminalKind:
    """What can be written to a terminal.

    Attributes:
        is_dumb: No control sequence at all.
        takes_links: Links of OSC 8 to files of this machine, as it is known to open them and ``NO_COLOR`` is not set.
    """

    is_dumb: bool
    takes_links: bool


def terminal_kind() -> TerminalKind:
    """Return what the environment tells of the terminal; where it tells nothing, that it takes no links."""
    is_dumb = os.environ.get("TERM", "").lower() in {"dumb", "unknown"}
    is_apart = any(os.environ.get(name) for name in ("NO_COLOR", *_BETWEEN))
    is_known = (
        os.environ.get("TERM_PROGRAM") in _PROGRAMS
        or os.environ.get("TERM") in _TERMS
        or bool(os.environ.get("WT_SESSION"))
        or _number(os.environ.get("VTE_VERSION")) >= _VTE
        or _number(os.environ.get("KONSOLE_VERSION")) >= _KONSOLE
    )
    return TerminalKind(is_dumb, takes_links=is_known and not is_dumb and not is_apart)


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
