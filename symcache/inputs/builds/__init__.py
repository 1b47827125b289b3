"""Windows builds as inputs: what of a build an index of Windows binaries knows, without a file of it at hand."""
