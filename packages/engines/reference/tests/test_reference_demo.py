"""What the README shows of the demo is what the demo prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripted_core.cli import main

_ROOT = Path(__file__).resolve().parents[4]


def test_the_readme_shows_the_demos_own_digest(capsys):
    example = _ROOT / "examples" / "retract_and_resume.py"
    with pytest.raises(SystemExit) as ended:
        main(["run", str(example), "--backend", "reference"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    digest = re.search(r"events ([0-9a-f]{32})", printed)
    assert digest is not None, printed
    assert digest[1] in (_ROOT / "README.md").read_text(encoding="utf-8")
