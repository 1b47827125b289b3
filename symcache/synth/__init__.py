"""Writers of real-format PE images, PDBs, cabinets and dumps, for the demo, the tests and the benchmarks.

Nothing here is shared with `symcache.formats`: a mistake about a format must not hide in both.
"""
