"""Maintenance of stores: verify, repair, prune, statistics, conversion, bundles.

Everything here raises `StoreError` if the store cannot be read or written.
"""
