"""Maintenance of stores; what reads or writes raises `StoreError` if the store does not allow it."""
