"""Which source columns each column of a chain of SQL models comes from, read off their SQL.

Belongs here: SQL to column lineage, in OpenLineage's terms. Does not belong: running dbt
(:mod:`marketlake.storage.dbt_project`) and the lineage of what Python makes
(``contracts/lineage.py``).

What is followed through every step (CTE, subquery, union, model): a value from the values it is
computed of; the conditions, orders and windows it depends on; and what decides the rows of a step
(joins, filters, groups), which counts for the whole table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

from marketlake.contracts.lineage import ColumnLineage, InputColumn
from marketlake.errors import ConfigError

_CLAUSES = {
    "where": "FILTER",
    "having": "FILTER",
    "qualify": "FILTER",
    "group": "GROUP_BY",
    "distinct": "GROUP_BY",
    "order": "SORT",
}
_Use = tuple[str, str]
_SAME = ("DIRECT", "IDENTITY")
_COMPUTED = ("DIRECT", "TRANSFORMATION")
_AGGREGATED = ("DIRECT", "AGGREGATION")
_CONDITION = ("INDIRECT", "CONDITIONAL")
_STRENGTH = (_SAME, _COMPUTED, _AGGREGATED)
_Inputs = frozenset[InputColumn]
# By kind of expression, the first that fits: how it uses some parts by name, and all others.
_USES: tuple[tuple[type[exp.Expr], dict[str, _Use], _Use], ...] = (
    (exp.Paren, {}, _SAME),
    (exp.Case, {"this": _CONDITION, "ifs": _SAME}, _COMPUTED),
    (exp.If, {"this": _CONDITION}, _COMPUTED),
    (exp.Window, {"this": _SAME}, ("INDIRECT", "WINDOW")),
    (exp.Filter, {"this": _SAME}, ("INDIRECT", "FILTER")),
    (exp.Order, {"this": _SAME}, ("INDIRECT", "SORT")),
    (exp.Lag, {}, _COMPUTED),
    (exp.Lead, {}, _COMPUTED),
    (exp.AggFunc, {}, _AGGREGATED),
    (exp.Expr, {}, _COMPUTED),
)


@dataclass(frozen=True)
class _Resolved:
    columns: Mapping[str, _Inputs]
    rows: _Inputs


def lineage_of_models(
    models: Mapping[str, str], sources: Mapping[str, Iterable[str]]
) -> dict[str, ColumnLineage]:
    """Resolve every column of every model to columns of the sources.

    Parameters
    ----------
    models
        Compiled SQL (Postgres) by relation, ``schema.name``; a model comes after those it reads.
    sources
        Column names by relation.

    Raises
    ------
    ConfigError
        When a model's SQL cannot be read, or names a relation or column that is not there.
    """
    known = {
        relation: _Resolved(
            {
                name: frozenset({InputColumn(relation, name, "DIRECT", "IDENTITY")})
                for name in columns
            },
            frozenset(),
        )
        for relation, columns in sources.items()
    }
    found = {}
    for relation, sql in models.items():
        try:
            known[relation] = _Model(sql, known).resolve()
        except (SqlglotError, LookupError, ValueError) as error:
            raise ConfigError(
                expected="SQL whose columns can be followed to their sources",
                was=f"{type(error).__name__}: {error}",
                where=f"model {relation}",
                todo="name columns as the models beside it do, or teach storage/column_lineage.py",
            ) from error
        found[relation] = ColumnLineage(
            {name: tuple(sorted(inputs)) for name, inputs in known[relation].columns.items()},
            tuple(sorted(known[relation].rows)),
        )
    return found


class _Model:
    """One statement; each of its steps is resolved once."""

    def __init__(self, sql: str, known: Mapping[str, _Resolved]) -> None:
        tables: defaultdict[str, dict[str, object]] = defaultdict(dict)
        for relation, resolved in known.items():
            namespace, _, name = relation.partition(".")
            tables[namespace][name] = dict.fromkeys(resolved.columns, "text")
        tree = parse_one(sql, read="postgres")
        for table in tree.find_all(exp.Table):
            table.set("catalog", None)  # the database; a relation is named by its schema
        statement = qualify(
            tree,
            schema=dict(tables),
            dialect="postgres",
            expand_alias_refs=False,
            quote_identifiers=False,
        )
        self._known = known
        self._root = build_scope(statement)
        self._done: dict[int, _Resolved] = {}

    def resolve(self) -> _Resolved:
        if self._root is None:
            raise LookupError("the statement is no query")
        return self._of(self._root)

    def _of(self, source: Scope | exp.Expr) -> _Resolved:
        if isinstance(source, exp.Table):
            if isinstance(source.this, exp.Func):  # its rows come from no table
                return _Resolved(defaultdict(frozenset), frozenset())
            return self._known[f"{source.db}.{source.name}"]
        if not isinstance(source, Scope):
            raise LookupError(f"cannot follow {source}")
        if id(source) not in self._done:
            resolve = self._union if source.set_operation_scopes else self._step
            self._done[id(source)] = resolve(source)
        return self._done[id(source)]

    def _union(self, scope: Scope) -> _Resolved:
        sides = [self._of(side) for side in scope.set_operation_scopes]
        columns = zip(*(side.columns.values() for side in sides), strict=True)
        return _Resolved(
            {
                name: frozenset().union(*inputs)
                for name, inputs in zip(sides[0].columns, columns, strict=True)
            },
            frozenset().union(*(side.rows for side in sides)),
        )

    def _step(self, scope: Scope) -> _Resolved:
        query = scope.expression
        rows = set[InputColumn]()
        for _, source in scope.selected_sources.values():
            rows |= self._of(source).rows
        for join in query.args.get("joins") or ():
            rows |= self._inputs(scope, join.args.get("on"), ("INDIRECT", "JOIN"))
        for clause, subtype in _CLAUSES.items():
            rows |= self._inputs(scope, query.args.get(clause), ("INDIRECT", subtype))
        columns = {
            item.alias_or_name: self._inputs(scope, item.unalias(), _SAME)
            for item in query.expressions
        }
        return _Resolved(columns, frozenset(rows))

    def _inputs(self, scope: Scope, node: exp.Expr | None, use: _Use) -> _Inputs:
        """Return what a part of a step's query uses, and how."""
        if node is None:
            return frozenset()
        if isinstance(node, exp.Column):
            return self._column(scope, node, use)
        if isinstance(node, exp.Query):
            (inner,) = (one for one in scope.subquery_scopes if one.expression is node.unnest())
            resolved = self._of(inner)
            return _used(resolved.rows.union(*resolved.columns.values()), use)
        parts = (
            self._inputs(scope, part, _then(use, how))
            for part, how in _parts(scope.expression, node)
        )
        return frozenset[InputColumn]().union(*parts)

    def _column(self, scope: Scope, node: exp.Column, use: _Use) -> _Inputs:
        if node.table:
            _, source = scope.selected_sources[node.table]
            return _used(self._of(source).columns[node.name], use)
        # What sqlglot leaves without its table: an order may name an output, a condition on
        # groups an input.
        for item in scope.expression.expressions:
            if item.output_name == node.name:
                return self._inputs(scope, item.unalias(), use)
        tables = [self._of(source).columns for _, source in scope.selected_sources.values()]
        (columns,) = (columns for columns in tables if node.name in columns)
        return _used(columns[node.name], use)


def _used(inputs: Iterable[InputColumn], use: _Use) -> _Inputs:
    how = [(item, _then(use, (item.kind, item.subtype))) for item in inputs]
    return frozenset(replace(item, kind=kind, subtype=subtype) for item, (kind, subtype) in how)


def _then(outer: _Use, inner: _Use) -> _Use:
    """Return how a use of a use is called: indirect once, indirect for good; else the stronger."""
    if outer[0] == "INDIRECT":
        return outer
    if inner[0] == "INDIRECT":
        return inner
    return max(outer, inner, key=_STRENGTH.index)


def _parts(query: exp.Expr, node: exp.Expr) -> Iterator[tuple[exp.Expr, _Use]]:
    """Yield the parts of an expression of a query, each with how the expression uses it."""
    if isinstance(node, exp.WithinGroup):  # what is ordered is what is aggregated
        yield from ((item, _AGGREGATED) for item in node.expression.expressions)
        return
    special, usual = next((some, rest) for kind, some, rest in _USES if isinstance(node, kind))
    for part in node.iter_expressions():
        yield part, special.get(part.arg_key or "", usual)
    if isinstance(node, exp.Window) and node.alias:
        for window in query.args["windows"]:
            if window.name == node.alias:
                yield from ((part, usual) for part in window.iter_expressions())
