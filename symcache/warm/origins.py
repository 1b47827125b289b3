"""Where wants come from: the inputs of a run, and which of them, and which module, names a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.identity import base_name, fold
from symcache.inputs.records import STANDARD_INPUT, InputKind
from symcache.inputs.runtimes import library_keys, runtime_of
from symcache.warm.plan import WantedFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from symcache.identity import ImageKey, Key
    from symcache.inputs.records import Input, Module
    from symcache.warm.plan import Want


class Origins:
    """The inputs of a run in their order, and what each file is named by.

    Attributes:
        inputs: Those that were begun, each once.
        now: The one that modules belong to now; None before the first.
        modules: The first module that names a file, and its input, by the file's folded index; of a module that names
            none, by its own folded name.
    """

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.now: Input | None = None
        self.modules: dict[str, tuple[Input, Module]] = {}
        self._name = ""  # base name of *now*
        self._archives: set[str] = set()  # paths of inputs that go on after what lies in them
        # The base name of the input whose modules name a file, or of all if there are more, by the same as *modules*.
        self._names: dict[str, str | dict[str, None]] = {}

    def begin(self, record: Input) -> None:
        """Note that what follows belongs to *record*; an archive that goes on is the same again."""
        self.now = record
        self._name = base_name(record.path.rstrip("/\\"))
        if record.kind is InputKind.ARCHIVE:
            if record.path in self._archives:
                return
            self._archives.add(record.path)
        self.inputs.append(record)

    def add(self, module: Module) -> None:
        """Note which files *module* names."""
        if self.now is None:
            return
        keys: list[Key] = [key for pdb in module.pdbs for key in (pdb.key, *pdb.others)]
        if module.image is not None and (listed := module.listed_image) is not None:
            keys += [module.image] if listed is module.image else [module.image, listed]
        keys += module.candidates[:1]
        if module.dbg is not None:
            keys.append(module.dbg)
        if module.image is not None and (runtime := runtime_of(module)) is not None:
            keys += library_keys(module.image, runtime)
        known = self.now, module
        for name in [key.folded for key in keys] or [fold(module.name)]:
            self.modules.setdefault(name, known)
            self._add_name(name, self._name)

    def share(self, image: ImageKey, wants: Iterable[Want]) -> None:
        """Note that *wants* came of the module that *image* is of."""
        if (known := self.modules.get(image.folded)) is None:
            return
        for each in wants:
            if isinstance(each, WantedFile):
                self.modules.setdefault(each.key.folded, known)
                for input_name in self._names_of(image.folded):
                    self._add_name(each.key.folded, input_name)

    def names_of(self, index: str) -> tuple[str, ...]:
        """Return the base names of the inputs whose modules name *index*, in their order; none of standard input."""
        return tuple(name for name in self._names_of(fold(index)) if name not in {"", STANDARD_INPUT})

    def _names_of(self, folded: str) -> tuple[str, ...]:
        known = self._names.get(folded, {})
        return (known,) if isinstance(known, str) else tuple(known)

    def _add_name(self, folded: str, input_name: str) -> None:
        known = self._names.setdefault(folded, input_name)
        if isinstance(known, dict):
            known[input_name] = None
        elif known != input_name:
            self._names[folded] = {known: None, input_name: None}
