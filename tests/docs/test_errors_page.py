"""The page of errors holds exactly the declared faults; what they say is held by tests/faults."""

from __future__ import annotations

from tests.faults import page
from tests.faults.cases import FAULTS, KEPT_OUT


def test_the_page_is_what_the_declared_faults_render_to() -> None:
    text = page.page_text()
    words = page.words_on_the_page(text)
    declared = {case.name for case in (*FAULTS, *KEPT_OUT)}
    assert declared - set(words) == set(), "run `python -m pytest tests/faults --write-errors-page`"
    assert page.render(words) == text


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [case.name for case in (*FAULTS, *KEPT_OUT)]
    assert len(set(names)) == len(names)
    assert len({case.broken for case in FAULTS}) == len(FAULTS)
