"""Looking after stores: verify, repair, prune, statistics, conversion, bundles."""
