"""Writers of real-format PE images, PDBs and kernel dumps, and a server on loopback: what the demo is made of.

Nothing here is shared with `symcache.formats`: a mistake about a format must not hide in both.
"""
