"""A store on disk: the tree that debuggers read, and what keeps it whole."""
