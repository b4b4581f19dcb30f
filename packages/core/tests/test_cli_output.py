"""What the program does when its output cannot be written, and with a file that ends the import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="unit", runner_config="cpu")

_PROGRAM = [sys.executable, "-c", "from scripted_core.cli import main; main()"]


@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["doctor"], ["--help"]])
def test_a_full_disk_is_one_line_and_no_traceback(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*_PROGRAM, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


def test_a_file_that_exits_when_it_is_imported_is_an_error_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "leaves.py"
    file.write_text("import sys\nsys.exit(3)\n")
    done = subprocess.run([*_PROGRAM, "run", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "does not import: SystemExit: 3" in done.stderr
    assert "Traceback" not in done.stderr
