"""Symbol servers over HTTP."""
