"""What a store loses, verify finds, repair mends, and no transaction in force pays for."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest import mock
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.parts import IS_WINE

from symcache.identity import Key, PdbKey, Tier
from symcache.stores.base import Form
from symcache.stores.local.tree import Store, list_stored
from symcache.symstore.admin import Addition, Admin
from symcache.symstore.folder import journal_path
from symcache.symstore.transactions import Kind, read_refs
from symcache.upkeep.problems import Problem, ProblemKind, RepairAction
from symcache.upkeep.repair import repair
from symcache.upkeep.verify import verify

KEYS = [PdbKey(name, UUID(int=number), 1) for name in ("a.pdb", "B.pdb") for number in range(2)]


class Killed(BaseException):
    """Stands for the death of the process: nothing gets done after it."""


class Losing(RuleBasedStateMachine):
    """The model: which transaction wants which keys, as far as an add or delete that was killed has been settled."""

    @initialize(tier=st.sampled_from(Tier))
    def make_store(self, tier: Tier) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "store")
        self.store.create(tier)
        self.admin = Admin(self.store)
        self.account = self.store.root / "000Admin"
        self.wanted: dict[int, set[PdbKey]] = {}
        self.killed: tuple[int, set[PdbKey]] | None = None
        for key in KEYS:
            (self.folder / f"{key.guid.int}{key.name}").write_text(key.index)

    def settle(self) -> None:
        self.admin.recover()
        self.learn()

    def learn(self) -> None:
        """Take in what became of what was killed: either is right, but nothing in between."""
        in_force = {each.id for each in self.admin.list_transactions()}
        if self.killed is not None:
            id_, keys = self.killed
            if id_ in in_force:
                self.wanted[id_] = keys
            self.killed = None
        self.wanted = {id_: keys for id_, keys in self.wanted.items() if id_ in in_force}
        assert in_force == set(self.wanted)

    def additions(self, keys: set[PdbKey]) -> list[Addition]:
        return [Addition(key, self.folder / f"{key.guid.int}{key.name}") for key in sorted(keys)]

    def next_id(self) -> int:
        return max((each.id for each in self.admin.history()), default=0) + 1

    @rule(keys=st.sets(st.sampled_from(KEYS), min_size=1), form=st.sampled_from(Form))
    def add(self, keys: set[PdbKey], form: Form) -> None:
        self.settle()
        kind = Kind.POINTER if form is Form.POINTER else Kind.FILE
        added = self.admin.add(self.additions(keys), product="p", kind=kind, compress=form is Form.COMPRESSED)
        self.wanted[added.id] = keys

    @precondition(lambda self: bool(self.wanted))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.settle()
        if self.wanted:
            id_ = data.draw(st.sampled_from(sorted(self.wanted)))
            self.admin.delete(id_)
            del self.wanted[id_]
            for key in KEYS:
                assert id_ not in {ref.id for ref in read_refs(self.store.folder_for(key)).refs}

    @rule(keys=st.sets(st.sampled_from(KEYS), min_size=1), steps=st.integers(0, 12))
    def add_and_die(self, keys: set[PdbKey], steps: int) -> None:
        self.settle()
        self.killed = (self.next_id(), keys)
        self.die(steps, lambda: self.admin.add(self.additions(keys), product="p"))

    @precondition(lambda self: bool(self.wanted))
    @rule(data=st.data(), steps=st.integers(0, 12))
    def delete_and_die(self, data: st.DataObject, steps: int) -> None:
        self.settle()
        if self.wanted:
            id_ = data.draw(st.sampled_from(sorted(self.wanted)))
            self.die(steps, lambda: self.admin.delete(id_))

    def die(self, steps: int, act: object) -> None:
        replace, left = os.replace, steps

        def counted(source: str, target: str) -> None:
            nonlocal left
            if left <= 0:
                raise Killed
            left -= 1
            replace(source, target)

        assert callable(act)
        with mock.patch("os.replace", counted), suppress(Killed):
            act()
        self.store.refresh()

    @precondition(lambda self: bool(self.wanted))
    @rule(key=st.sampled_from(KEYS))
    def lose_a_file(self, key: PdbKey) -> None:
        self.settle()
        for stored in list_stored(self.store.folder_for(key), key.name):
            stored.path.unlink()

    @precondition(lambda self: bool(self.wanted))
    @rule(data=st.data(), is_emptied=st.booleans())
    def lose_an_own_file(self, data: st.DataObject, is_emptied: bool) -> None:
        self.settle()
        if self.wanted:
            id_ = data.draw(st.sampled_from(sorted(self.wanted)))
            own = self.account / f"{id_:010}"
            own.unlink(missing_ok=True)
            if is_emptied:
                own.touch()

    @precondition(lambda self: bool(self.wanted))
    @rule(data=st.data(), is_emptied=st.booleans())
    def lose_an_own_file_and_delete(self, data: st.DataObject, is_emptied: bool) -> None:
        self.lose_an_own_file(data, is_emptied)
        self.delete(data)

    @precondition(lambda self: bool(self.wanted))
    @rule(data=st.data())
    def lose_a_line(self, data: st.DataObject) -> None:
        self.settle()
        if self.wanted:
            id_ = data.draw(st.sampled_from(sorted(self.wanted)))
            server = self.account / "server.txt"
            lines = server.read_bytes().splitlines(keepends=True)
            server.write_bytes(b"".join(line for line in lines if not line.startswith(b"%010d" % id_)))
            wanted = dict(self.wanted)
            findings = self.find()
            self.wanted = wanted
            assert f"000Admin/{id_:010}" in {finding.path for finding in findings}
            self.mend(findings)

    @precondition(lambda self: bool(self.wanted))
    @rule(key=st.sampled_from(KEYS), id_=st.integers(80, 99))
    def gain_a_stale_reference(self, key: PdbKey, id_: int) -> None:
        self.settle()
        refs = self.store.folder_for(key) / "refs.ptr"
        if refs.exists():
            with refs.open("ab") as file:
                file.write(b'\r\n%010d,file,"x",pri,,N,,' % id_)
            findings = self.find()
            assert (ProblemKind.REFERENCES, RepairAction.REFERENCES) in {(each.kind, each.action) for each in findings}
            self.mend(findings)

    @rule()
    def verify_and_repair(self) -> None:
        self.mend(self.find())

    def find(self) -> list[Problem]:
        """Verify, and fail unless every loss is found."""
        findings = list(verify(self.store, lambda *_: None))
        named = {finding.index for finding in findings} | {finding.path.rpartition("/")[0] for finding in findings}
        if journal_path(self.store).exists():
            assert ProblemKind.INTERRUPTED in {finding.kind for finding in findings}
            return findings
        self.learn()
        if not findings:
            self.check_all_is_there()
        for id_, keys in self.wanted.items():
            own = self.account / f"{id_:010}"
            if not own.exists() or not own.stat().st_size:
                assert f"000Admin/{id_:010}" in {finding.path for finding in findings}
            for key in keys:
                folder = self.store.folder_for(key)
                if not list_stored(folder, key.name):
                    assert named & {key.index, folder.relative_to(self.store.root).as_posix()}
        return findings

    def check_all_is_there(self) -> None:
        for id_, keys in self.wanted.items():
            assert {filed.key for filed in self.admin.files_of(id_)} == keys
            assert keys <= self.held()

    def mend(self, findings: list[Problem]) -> None:
        """Repair until nothing is found; what a transaction in force names stays or comes back."""
        for _ in range(3):
            before = self.held()
            results = list(repair(self.store, findings, fetch=self.fetch))
            assert all(result.repaired for result in results), [str(result) for result in results]
            self.learn()
            assert {key for keys in self.wanted.values() for key in keys} & before <= self.held()
            findings = list(verify(self.store, lambda *_: None))
            if not findings:
                break
        assert findings == []
        self.check_all_is_there()

    def held(self) -> set[PdbKey]:
        return {key for key in KEYS if self.store.find(key) is not None}

    def fetch(self, key: Key) -> str | None:
        scratch = self.store.scratch()
        scratch.write_text(key.index)
        self.store.publish(scratch, key, durable=False)
        return None

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.store.close()
            shutil.rmtree(self.folder)


TestLosing = Losing.TestCase
# The same histories each time, so that a failure is that of a change; without derandomize it draws new ones.
TestLosing.settings = settings(max_examples=6 if IS_WINE else 60, stateful_step_count=20, derandomize=True)
