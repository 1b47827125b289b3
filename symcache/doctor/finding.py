"""What an examination found: one line each, free of secrets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Finding", "Rating"]


class Rating(StrEnum):
    """Whether something is to be done."""

    FINE = "fine"
    WARNING = "warning"  # it works, and may surprise
    WRONG = "wrong"  # it does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        area: ``server``, ``store``, ``debugger`` or ``program``.
        subject: The server's URL or the store's path; what is examined.
        check: What of it: ``proxy``, ``certificate``, ``locks`` and so on.
        rating: Whether something is to be done.
        text: What was found.
        advice: What to do; empty where nothing is.
    """

    area: str
    subject: str
    check: str
    rating: Rating
    text: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return its fields in ``symcache.doctor/1``."""
        return {
            "area": self.area,
            "subject": self.subject,
            "check": self.check,
            "rating": self.rating,
            "text": self.text,
            "advice": self.advice or None,
        }
