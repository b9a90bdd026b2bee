"""What a store says about itself, and its way from one format to the next."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ConfigError
from workers.store import INDEX, PLAIN, Store, format
from workers.store.engine import open_environment

NAME = uuid.UUID(int=7)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Any]:
    found = open_environment(tmp_path, 1024 * 1024)
    yield found
    found.close()


def describe(env: Any, **options: Any) -> Any:
    usual = {"service": "test", "tables": {"items": PLAIN}, "uuid": NAME, "alone": True}
    return format.describe(env, **{**usual, **options})


def test_a_new_store_is_described_once(env: Any) -> None:
    identity, tables, _ = describe(env)
    assert identity == format.Identity(NAME, "test", 0)
    assert list(tables) == ["items"]
    again, _, _ = describe(env, uuid=uuid.uuid4())
    assert again == identity


def test_a_store_of_another_service_is_refused(env: Any) -> None:
    describe(env)
    with pytest.raises(ConfigError, match="holds the data of the service 'test', not of 'other'"):
        describe(env, service="other")


def test_a_table_keeps_its_shape(env: Any) -> None:
    describe(env, tables={"one": PLAIN, "two": INDEX})
    with pytest.raises(ConfigError, match="'one' exists as a plain table"):
        describe(env, tables={"one": INDEX})
    with pytest.raises(ConfigError, match="'two' exists as an index table"):
        describe(env, tables={"two": PLAIN})
    _, _, own = describe(env, tables={})
    with env.begin() as txn:
        assert format.recorded_tables(txn, own) == {"one": False, "two": True}


def test_too_many_tables_are_refused(env: Any) -> None:
    describe(env, tables={f"t{n}": PLAIN for n in range(format.MAX_TABLES)})
    with pytest.raises(ConfigError, match="at most 64 tables"):
        describe(env, tables={"more": PLAIN})


def test_a_newer_format_is_refused(env: Any) -> None:
    describe(env, newest=9)
    with pytest.raises(ConfigError, match="format 9 and this version reads up to 1"):
        describe(env)


def test_an_older_format_is_brought_up_step_by_step(env: Any) -> None:
    describe(env)
    seen = []

    def step(number: int) -> Any:
        def migrate(env: Any, txn: Any) -> None:
            seen.append(number)
            handle = env.open_db(b"items", txn=txn)
            txn.put(b"key", b"%d" % number, db=handle)

        return migrate

    steps = {1: step(1), 2: step(2)}
    with pytest.raises(ConfigError, match="stop the processes of the older version"):
        describe(env, newest=3, migrations=steps, alone=False)
    _, tables, _ = describe(env, newest=3, migrations=steps)
    describe(env, newest=3, migrations=steps, alone=False)
    assert seen == [1, 2]
    with env.begin() as txn:
        assert txn.get(b"key", db=tables["items"].handle) == b"2"


def test_a_migration_that_fails_leaves_the_store_as_it_was(env: Any) -> None:
    describe(env)

    def fails(env: Any, txn: Any) -> None:
        txn.put(b"junk", b"", db=env.open_db(format.SELF, txn=txn))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        describe(env, newest=2, migrations={1: fails})
    _, _, own = describe(env)
    with env.begin() as txn:
        assert txn.get(b"junk", db=own) is None


def test_every_format_but_the_first_has_a_way_to_it() -> None:
    assert sorted(format.MIGRATIONS) == list(range(1, format.FORMAT))


def test_a_store_keeps_its_uuid_and_counts_its_writers(path: Path) -> None:
    with Store.open(path, service="test", tables={}) as store:
        name = store.uuid
        assert store.epoch == 0
    with Store.open(path, service="test", tables={}) as store:
        assert store.uuid == name
