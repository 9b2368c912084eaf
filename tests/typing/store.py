"""What type checkers see of the store: checked by mypy --strict and pyright strict, never run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

from asyncsandbox import Migration, Operation, Schema, Store, StoreInfo, StoreSettings, open_store
from asyncsandbox._core.store import Bound, Result, SchemaChange

PUT = Operation("bells.put", "INSERT INTO sandbox_bells (ns, name) VALUES (:ns, :name)")
LIST = Operation("bells.list", "SELECT name FROM sandbox_bells WHERE ns = :ns")
BELLS = Schema(
    name="bells",
    tables=("sandbox_bells",),
    migrations=(Migration("CREATE TABLE sandbox_bells (ns TEXT, name TEXT)"),),
    operations=(PUT, LIST),
)


async def main() -> None:
    async with open_store(Path("store.sqlite"), settings=StoreSettings(create=False)) as store:
        assert_type(store, Store)
        assert_type(await store.migrate(BELLS), tuple[SchemaChange, ...])
        assert_type(PUT(name="ding"), Bound)
        assert_type(await store.write(PUT, name="ding"), Result)
        assert_type(await store.write_all(PUT(name="dang"), PUT(name="dong")), tuple[Result, ...])
        assert_type(await store.read(LIST), tuple[Mapping[str, Any], ...])
        assert_type(await store.info(), StoreInfo)
        assert_type(await store.prune(older_than_seconds=60), dict[str, int])
        assert_type(await store.wait_for("bells", timeout_seconds=1), int)
        assert_type(store.within("other"), Store)
        await store.write(PUT, name=object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
