"""The benchmark that lays generated households beside real games, and what it must find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.benchmarks.households import Args, generated_games, look_at, main, real_games


def test_its_last_line_holds_the_figures_of_every_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(Args(data=tmp_path, games=6, sizes=(1, 2)))
    lines = capsys.readouterr().out.strip().splitlines()
    figures = json.loads(lines[-1])
    assert set(figures) == {"size 1", "size 2"}
    assert "no real games" in "".join(lines)
    for column in figures.values():
        assert column["games"] == 6 and column["types_unknown"] == 0
        assert column["oracle_won"] == 1
        assert column["oracle_steps"] <= column["demonstrator_steps"]
    assert figures["size 1"]["first_observation"] < figures["size 2"]["first_observation"]


@pytest.mark.slow
def test_households_of_full_size_are_like_real_games(alfworld_data: Path, tmp_path: Path):
    cache = alfworld_data / "cache"  # the experts' tests play the same games
    real = look_at(real_games(alfworld_data, 60, seed=1, panel="valid_seen")[::3], cache)
    ours = look_at(generated_games(5, 18), tmp_path)
    assert ours["types_unknown"] == 0
    bounds = {
        "places": 0.3,
        "things": 0.3,
        "first_observation": 0.25,
        "observation": 0.25,
        "candidates": 0.3,
        "oracle_steps": 0.2,
        "demonstrator_steps": 0.35,
        "handcoded_steps": 0.35,
    }
    for figure, bound in bounds.items():
        assert abs(ours[figure] / real[figure] - 1) < bound, (figure, ours[figure], real[figure])
    assert ours["demonstrator_won_20"] > real["demonstrator_won_20"] - 0.2
    assert ours["oracle_won"] == ours["demonstrator_won_50"] == 1
