"""The plan of an image by its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.identity import Pdb2Key, PdbKey, PortablePdbKey
from symcache.synth.pe import CodeViewPlan, ImagePlan

if TYPE_CHECKING:
    from symcache.identity import ImageKey

__all__ = ["plan_image"]


def plan_image(image: ImageKey, *pdbs: PdbKey | Pdb2Key | PortablePdbKey) -> ImagePlan:
    """Return the plan of an image that has the key *image* and names *pdbs*.

    Args:
        image: Its stamp and size are stated in the headers; its name is for the caller's use.
        *pdbs: What its code view records name, in their order.
    """
    records: list[CodeViewPlan] = []
    for pdb in pdbs:
        match pdb:
            case PdbKey():
                records.append(CodeViewPlan(pdb.name, pdb.guid, pdb.age))
            case PortablePdbKey():
                records.append(CodeViewPlan(pdb.name, pdb.guid, portable=True))
            case Pdb2Key():
                records.append(CodeViewPlan(pdb.name, age=pdb.age, signature=pdb.signature))
    return ImagePlan(image.timestamp, image.size_of_image, code_views=tuple(records))
