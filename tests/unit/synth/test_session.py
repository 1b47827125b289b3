"""What the demo writes, read by readers that are not ours."""

from __future__ import annotations

import subprocess
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from support.parts import need

from symcache.synth.session import SESSION, SessionModule, write_inputs

if TYPE_CHECKING:
    from pathlib import Path

each_module = pytest.mark.parametrize("module", SESSION, ids=lambda module: module.image.name)


@each_module
def test_pefile_reads_the_image_and_maps_it_to_the_same_bytes(module: SessionModule) -> None:
    pefile: Any = pytest.importorskip("pefile", reason="pefile is an oracle of developers")
    content = module.make_image()
    image = pefile.PE(data=content)
    assert image.FILE_HEADER.TimeDateStamp == module.timestamp
    assert (image.OPTIONAL_HEADER.Magic, image.FILE_HEADER.Machine) == (0x10B, 0x14C)
    assert image.OPTIONAL_HEADER.SizeOfImage == len(content) == module.image.size_of_image
    assert [section.Name.rstrip(b"\0") for section in image.sections] == [b".text", b".rdata"]
    (entry,) = image.DIRECTORY_ENTRY_DEBUG
    assert (entry.entry.PdbFileName.rstrip(b"\0").decode(), entry.entry.Age) == (module.pdb.name, module.pdb.age)
    assert entry.entry.Signature_String == f"{module.pdb.guid.hex.upper()}{module.pdb.age:X}"
    assert image.get_warnings() == []
    assert bytes(image.get_memory_mapped_image()).rstrip(b"\0") == content.rstrip(b"\0")


@each_module
def test_llvm_reads_the_pdb(module: SessionModule, tmp_path: Path) -> None:
    path = tmp_path / module.pdb.name
    path.write_bytes(module.make_pdb())
    options = ["--summary", "--streams", "--modules", "--files", "--types", "--publics", "--section-headers"]
    done = subprocess.run([need("llvm"), "dump", *options, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert f"GUID: {{{str(module.pdb.guid).upper()}}}" in done.stdout
    assert f"  Age: {module.pdb.age}\n" in done.stdout
    assert "Is stripped: true" in done.stdout
    assert f"`_{module.pdb.name.partition('.')[0]}Entry@8`" in done.stdout
    assert path.stat().st_size > module.symbols_bytes


@pytest.mark.filterwarnings("ignore")
def test_volatility_reads_the_memory_that_the_dump_holds(tmp_path: Path) -> None:
    need("volatility3")
    contexts = import_module("volatility3.framework.contexts")
    intel = import_module("volatility3.framework.layers.intel")
    physical = import_module("volatility3.framework.layers.physical")
    segmented = import_module("volatility3.framework.layers.segmented")
    _, dump = write_inputs(tmp_path)
    head = dump.read_bytes()[:0x2000]
    first_page, bits, present = (int.from_bytes(head[at : at + 4], "little") for at in (0x100C, 0x1010, 0x1014))
    bitmap = int.from_bytes(head[0x1020 : 0x1020 + -(-bits // 8)], "little")
    first_pfn = (bitmap & -bitmap).bit_length() - 1
    assert (bitmap.bit_count(), bitmap >> first_pfn) == (present, (1 << present) - 1)
    assert dump.stat().st_size == first_page + present * 0x1000 + 0x10000

    # Volatility reads no summary bitmap: it is told where the pages lie.
    context = contexts.Context()
    context.config["file.location"] = dump.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))

    class Pages(segmented.SegmentedLayer):  # type: ignore[name-defined,misc]
        def _load_segments(self) -> None:
            self._segments = [(first_pfn * 0x1000, first_page, present * 0x1000, present * 0x1000)]

    context.config["pages.base_layer"] = "file"
    context.add_layer(Pages(context, "pages", "pages"))
    context.config["intel.memory_layer"] = "pages"
    context.config["intel.page_map_offset"] = int.from_bytes(head[0x10:0x14], "little")
    memory = intel.WindowsIntelPAE(context, "intel", "intel")

    def number(address: int) -> int:
        return int.from_bytes(memory.read(address, 4), "little")

    def text(address: int) -> str:
        length = number(address) & 0xFFFF
        return str(memory.read(number(address + 4), length).decode("utf-16-le"))

    at, found = number(int.from_bytes(head[0x18:0x1C], "little")), []
    for module in SESSION:
        base, size = number(at + 0x18), number(at + 0x20)
        found.append((text(at + 0x24), text(at + 0x2C), size))
        held = 0x1000 if module.is_paged_out else 0x20000 if module is SESSION[0] else size
        assert memory.read(base, held) == module.make_image()[:held]
        assert memory.is_valid(base + 0x1000) == (not module.is_paged_out)
        at = number(at)
    assert found == [(module.path, module.image.name, module.image.size_of_image) for module in SESSION]
    assert at == int.from_bytes(head[0x18:0x1C], "little")
    processes = number(int.from_bytes(head[0x1C:0x20], "little"))
    assert memory.read(processes - 0xB8 + 0x16C, 7) == b"System\0"
    dump_layer = context.layers["file"]
    dump_layer.destroy()
