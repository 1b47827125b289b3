"""The records that symstore keeps beside the files: transactions in 000Admin, and references to them.

Everything here raises `StoreError` if the store cannot be read or written, or if another writer does not end.
"""
