"""The table of seeded faults: measured in pieces, and written where the documentation has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_core.errors import ConfigError
from scripted_explore.fault_table import BEGIN, END, read_rows, table, topologies_of, written_into
from scripted_explore.fault_table import main as make_table
from scripted_explore.space import topologies
from scripted_reference.faults.catalogue import FAULTS
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="explore", runner_config="cpu")

FAULT = "row-handed-out-twice"


def test_every_fault_has_engines_that_can_show_it() -> None:
    for fault in FAULTS.values():
        assert topologies("reference", topologies_of(fault))


def test_the_table_is_made_in_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows"
    make_table(only=[FAULT], seed=0, max_seconds=30, minutes=None, rows_file=rows, write_docs=False)
    (row,) = read_rows(rows).values()
    assert row.fault == FAULT
    assert row.is_found
    assert 0 < row.operations <= 10
    assert "1 of 1 faults found, 1 of them within 60 s" in capsys.readouterr().out
    kept = rows.read_bytes()
    make_table(only=[FAULT], seed=0, max_seconds=30, minutes=None, rows_file=rows, write_docs=False)
    assert rows.read_bytes() == kept
    rows.write_text("{}\n")
    with pytest.raises(ConfigError, match="has no rows of this table"):
        read_rows(rows)


def test_the_table_is_written_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    written_into(page, table([]))
    text = page.read_text()
    assert "0 of 0 faults found" in text
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    page.write_text("nothing")
    with pytest.raises(ConfigError, match="no place for the table"):
        written_into(page, "")
