"""The page says what was counted, failures too."""

import json

from torture import __main__ as scoreboard


def test_the_page_shows_the_figures():
    figures = json.loads(scoreboard.FIGURES.read_text())
    assert scoreboard.PAGE.read_text() == scoreboard.INTRODUCTION + scoreboard.table(figures)


def test_a_failure_is_shown():
    figures = {"kills": {"seed": 3, "scores": [["nothing is lost", 1000, 999]]}}
    assert "| kills | nothing is lost | 1,000 | 999 | 3 |" in scoreboard.table(figures)
