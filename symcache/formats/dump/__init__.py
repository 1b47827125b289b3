"""Dumps: headers, page maps and kernel structures of kernel dumps, triage dumps, minidumps."""
