"""Bytes to records: readers of PE images, PDBs, cabinets and dumps. They know no key and no store."""
