"""The whole graph in one committed file: changing it is a diff that a reviewer sees."""

import json
from pathlib import Path

import pytest

SNAPSHOT = Path(__file__).with_name("snapshot.json")


def test_the_graph_is_the_committed_one(dags, request: pytest.FixtureRequest):
    # The text of the docs may change freely.
    graph = {
        dag_id: {name: value for name, value in dag.items() if name != "doc"}
        for dag_id, dag in sorted(dags.items())
    }
    if request.config.getoption("--update-snapshot", default=False):
        SNAPSHOT.write_text(json.dumps(graph, indent=2, sort_keys=True) + "\n")

    assert graph
    assert graph == json.loads(SNAPSHOT.read_text()), (
        "the graph changed; if that is meant: pytest tests/dags --update-snapshot, and commit"
    )
