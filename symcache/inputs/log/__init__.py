"""Text that people paste: debuggers' logs and what other tools print."""
