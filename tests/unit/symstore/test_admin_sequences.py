"""Any sequence of adds and deletes, against a model that fits in a few lines."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.parts import IS_WINE

from symcache.errors import UsageError
from symcache.identity import PdbKey, Tier
from symcache.stores.base import Form
from symcache.stores.local.tree import Store, list_stored
from symcache.symstore.admin import Addition, Admin
from symcache.symstore.transactions import Kind, read_pointer, read_refs

KEYS = [PdbKey(name, UUID(int=number), 1) for name in ("a.pdb", "B.pdb") for number in range(2)]


class AddingAndDeleting(RuleBasedStateMachine):
    """The model: which transaction wants which keys in which form, and what was recorded."""

    @initialize(tier=st.sampled_from(Tier))
    def make_store(self, tier: Tier) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "store")
        self.store.create(tier)
        self.admin = Admin(self.store)
        self.wanted: dict[int, dict[PdbKey, Form]] = {}
        self.history: list[tuple[int, int | None]] = []
        for key in KEYS:
            (self.folder / f"{key.guid.int}{key.name}").write_text(key.index)

    @rule(
        keys=st.sets(st.sampled_from(KEYS), min_size=1),
        form=st.sampled_from(Form),
        product=st.text(max_size=8),
    )
    def add(self, keys: set[PdbKey], form: Form, product: str) -> None:
        kind = Kind.POINTER if form is Form.POINTER else Kind.FILE
        additions = [Addition(key, self.folder / f"{key.guid.int}{key.name}") for key in sorted(keys)]
        added = self.admin.add(additions, product=product, kind=kind, compress=form is Form.COMPRESSED)
        self.wanted[added.id] = dict.fromkeys(sorted(keys), form)
        self.history.append((added.id, None))

    @rule(id_=st.integers(1, 8))
    def delete(self, id_: int) -> None:
        if id_ not in self.wanted:
            try:
                self.admin.delete(id_)
            except UsageError:
                return
            raise AssertionError(f"transaction {id_} is not in force")
        deleted = self.admin.delete(id_)
        del self.wanted[id_]
        self.history.append((deleted.id, id_))

    @invariant()
    def the_account_is_right(self) -> None:
        assert [each.id for each in self.admin.list_transactions()] == list(self.wanted)
        assert [(each.id, each.deleted_id) for each in self.admin.history()] == self.history
        assert [id_ for id_, _ in self.history] == list(range(1, len(self.history) + 1))
        for id_, keys in self.wanted.items():
            assert {filed.key for filed in self.admin.files_of(id_)} == set(keys)

    @invariant()
    def each_key_has_the_forms_that_are_wanted(self) -> None:
        for key in KEYS:
            folder = self.store.folder_for(key)
            forms = [keys[key] for keys in self.wanted.values() if key in keys]
            expected = set(forms) - {Form.POINTER}
            if forms and forms[-1] is Form.POINTER:
                expected.add(Form.POINTER)
                assert read_pointer(folder) == str(self.folder / f"{key.guid.int}{key.name}")
            assert {stored.form for stored in list_stored(folder, key.name)} == expected
            assert [ref.id for ref in read_refs(folder).refs] == [
                id_ for id_, keys in self.wanted.items() if key in keys
            ]
            assert folder.exists() == bool(forms)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.store.close()
            shutil.rmtree(self.folder)


TestAddingAndDeleting = AddingAndDeleting.TestCase
TestAddingAndDeleting.settings = settings(max_examples=3 if IS_WINE else 15, stateful_step_count=12)
