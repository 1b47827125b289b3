"""Writers of the demo's PE images, PDBs and kernel dump, and a symbol server on loopback.

Nothing here is shared with `symcache.formats`: a mistake about a format must not hide in both.
"""
