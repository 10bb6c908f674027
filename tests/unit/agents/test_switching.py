"""Decisions about models, and where they are kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr

from agents.switching import Decision, NotTaken, decide, summary
from schemas.codec import Codec
from schemas.errors import InvalidField, Reject
from schemas.records import ModelCommand, ModelKind, Target
from streams.models.catalog import Catalog
from streams.models.routing import Routing, activate, rollback
from streams.records import Outgoing
from streams.settings import load

AT = ModelKind.SCORER, "topic"
TARGET = Target(name="topic", source="1" * 64)
ACTIVATE = Decision("activate", lambda state, why: activate(state, TARGET, why), "ada", "better labels")


class Brokers:
    """Takes commands, or refuses them all."""

    def __init__(self, *, refuse: bool = False) -> None:
        self._refuse = refuse
        self.taken: list[Outgoing] = []

    async def __call__(self, records: Sequence[Outgoing]) -> Mapping[int, Reject]:
        if self._refuse:
            return {0: InvalidField("not like this")}
        self.taken += records
        return {}


async def decided(
    url: str | None, publish: Brokers, decision: Decision, routing: Routing | None = None
) -> ModelCommand:
    settings = load(database_url=None if url is None else SecretStr(url))
    return await decide(settings, Codec(), publish, routing or Routing(), AT, decision)


async def test_each_decision_is_a_row_of_the_catalog(tmp_path: Path) -> None:
    """With what was decided, by whom, when and why, and the state that it led to."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    first = await decided(url, Brokers(), ACTIVATE)
    second = await decided(url, Brokers(), Decision("rollback", rollback, "bob", "no"), Routing().apply(first))
    catalog = Catalog.open(SecretStr(url))
    rows = {row["action"]: row for row in catalog.activations("topic")}
    catalog.database.close()
    assert rows.keys() == {"activate", "rollback"}
    row = rows["activate"]
    said = row["id"], row["kind"], row["by"], row["why"], row["at"], row["state"]
    assert said == (first.id, "scorer", "ada", "better labels", first.at, summary(first))
    assert rows["rollback"]["state"]["previous"] == summary(second)["previous"] == summary(first)["active"]


@pytest.mark.parametrize("place", ["sqlite:///{}/file/catalog.db", "postgresql://127.0.0.1:1/nothing", None])
async def test_a_database_that_is_away_prevents_no_decision(tmp_path: Path, place: str | None) -> None:
    """The brokers have the command, which is what counts."""
    (tmp_path / "file").write_text("where a folder is expected")
    brokers = Brokers()
    state = await decided(place and place.format(tmp_path), brokers, ACTIVATE)
    assert state.active == TARGET
    assert [record.key for record in brokers.taken] == [b"scorer:topic"]


async def test_what_the_brokers_refuse_was_not_decided(tmp_path: Path) -> None:
    """So the catalog does not have it."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    with pytest.raises(NotTaken):
        await decided(url, Brokers(refuse=True), ACTIVATE)
    catalog = Catalog.open(SecretStr(url))
    assert catalog.activations() == []
    catalog.database.close()
