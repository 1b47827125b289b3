"""Writers of real-format PE images, PDBs, cabinets and dumps, for the demo, the tests and the benchmarks.

Nothing here is shared with `symcache.formats`: a mistake about a format must not hide in both.
"""

from symcache.synth.cab import build_cabinet
from symcache.synth.minidump import build_minidump, write_minidump
from symcache.synth.pdb import NativePdbSpec, make_pdb, make_pdb2, make_portable_pdb, write_pdb
from symcache.synth.pe import ImagePlan, disk_bytes, memory_bytes, plan_image

__all__ = [
    "ImagePlan",
    "NativePdbSpec",
    "build_cabinet",
    "build_minidump",
    "disk_bytes",
    "make_pdb",
    "make_pdb2",
    "make_portable_pdb",
    "memory_bytes",
    "plan_image",
    "write_minidump",
    "write_pdb",
]
