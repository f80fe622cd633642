import pytest
from marketlake.contracts.catalog import CATALOG
from marketlake.contracts.ddl import create_statements
from marketlake.contracts.model import Contract, Field

WAREHOUSE = [contract for contract in CATALOG if contract.warehouse]


def test_the_statements_of_a_contract_are_these() -> None:
    contract = Contract(
        name="core_test__thing",
        doc="The issuer's things.",
        grain="one row per session",
        owner="tests",
        key=("session", "check"),
        fields=(
            Field("session", "date", "exchange session"),
            Field("check", "string", "a reserved word"),
            Field("price_usd", "float64", "price", "USD", nullable=True),
            Field("flags", "strings", "flags"),
        ),
    )
    assert create_statements(contract) == [
        'create schema if not exists "core"',
        'create table if not exists "core"."test__thing" (\n'
        '    "session" date not null,\n'
        '    "check" text not null,\n'
        '    "price_usd" double precision,\n'
        '    "flags" text[] not null,\n'
        '    primary key ("session", "check")\n'
        ")",
        'comment on table "core"."test__thing" is '
        "'The issuer''s things. Grain: one row per session.'",
        'comment on column "core"."test__thing"."session" is \'exchange session\'',
        'comment on column "core"."test__thing"."check" is \'a reserved word\'',
        'comment on column "core"."test__thing"."price_usd" is \'price [USD]\'',
        'comment on column "core"."test__thing"."flags" is \'flags\'',
    ]


@pytest.mark.parametrize("contract", WAREHOUSE, ids=lambda contract: contract.name)
def test_every_warehouse_contract_can_be_loaded_by_session(contract: Contract) -> None:
    assert contract.field("session").kind == "date"
    assert "session" in contract.key
    assert len(create_statements(contract)) == 3 + len(contract.fields)
