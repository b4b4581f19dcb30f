"""The tests and the figures of SGLang on one GPU or two, in one command that ends in time.

    python gpu_stage.py OUT --gpus 1 --budget-s 420

Run it from the root of the repository, with what `gpu_bundle.py` has installed on `PYTHONPATH`. Whatever
has been found when the time is over is in OUT: `stage.json` with versions and figures, `tests-*.jsonl`
with a line for each test, and logs. `gpu_report.py` makes tables of it.

The order on one GPU is: a few scripts on one server, after which everything that is compiled at a first
start is there; measurements, one at a time on a machine that does nothing else; all tests, side by side.
On two GPUs the tests of ranks run while the servers that are measured afterwards start. What SGLang and
its kernels compile is in `~/.cache` and `~/.triton`: bring it along for a stage that is to be short.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parents[3]
SINGLE = "packages/backends/single/tests"
SMOKE = f"{SINGLE}/test_single_seed_core.py"
# Half of it is what is compiled on a machine that has none of it yet.
SMOKE_LIMIT_S = 240.0
# A first start on a machine that has compiled nothing yet.
READY_LIMIT_S = 240.0
MEASURE_LIMIT_S = 90.0
# A run that is interrupted still has to stop its servers.
STOPPING_S = 12.0
WORKERS = 8
PACKAGES = ("sglang", "sglang-kernel", "torch", "triton", "transformers", "scripted-core")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "SGLANG_SKIP_SGL_KERNEL_VERSION_CHECK": "1",
    "PYTHONUNBUFFERED": "1",
    # A program that uses NVLink multicast can take the GPUs of a shared host out of service.
    "NCCL_NVLS_ENABLE": "0",
}
TWO_RANKS = ("disable_custom_all_reduce=true", "enforce_disable_flashinfer_allreduce_fusion=true")


@dataclass(frozen=True)
class Measurement:
    """One process of `bench.gpu`: what it measures, with which arguments."""

    name: str
    what: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tests:
    """One run of pytest."""

    name: str
    paths: tuple[str, ...]
    options: tuple[str, ...] = ()


STEPS = Measurement("steps", "steps")
ONE_GPU = (
    STEPS,
    Measurement("reference engine on CUDA", "reference"),
    Measurement("free, tiny model", "free", ("new_tokens=1200",)),
    Measurement("free, layers of 0.6B", "free", ('model="0.6B"', "new_tokens=800", "pairs=4")),
    Measurement(
        "free, layers of 0.6B, one request",
        "free",
        ('model="0.6B"', "requests=1", "new_tokens=800", "pairs=4"),
    ),
)
# What captures graphs of a draft imports CUTLASS's Python package, in 0.5.15 whatever the model is; that
# package is not in the bundle.
KIT = (Measurement("occupancy kit, layers of 8B", "occupancy", ('model="8B"',)),)
SPECULATION = tuple(
    Measurement(
        f"speculation, {name}", "speculation", (f'algorithm="{name}"', "disable_cuda_graph=true")
    )
    for name in ("EAGLE3", "STANDALONE")
)
FIRST_SERVER = Tests("first server", (SMOKE,), ("--exitfirst",))
SGLANG = "packages/engines/sglang/tests"
RANKS = f"{SGLANG}/test_sglang_ranks.py"
TESTS = {
    1: Tests("one GPU", (SINGLE, SGLANG), (f"--ignore={RANKS}",)),
    2: Tests("two GPUs", (RANKS,)),
}
TWO_GPUS = tuple(
    Measurement(f"steps, {size}=2", "steps", (f"{size}_size=2", *TWO_RANKS))
    for size in ("pp", "tp")
)


class Only(StrEnum):
    """A part of the stage by itself."""

    FIGURES = "figures"
    TESTS = "tests"
    KIT = "kit"
    SPECULATION = "speculation"


FIGURES = {1: ONE_GPU, 2: TWO_GPUS}
ALONE = {Only.KIT: KIT, Only.SPECULATION: SPECULATION}


@dataclass
class Stage:
    """A budget, a folder, and what has been found so far."""

    out: Path
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds until the stage has to be over."""
        return self.deadline - time.monotonic()

    def note(self, text: str) -> None:
        """Say what is going on, and how much time is left."""
        print(f"gpu_stage: {text} ({self.left_s:.0f} s left)", flush=True)

    def keep(self, name: str, value: Any) -> None:
        """Add to what is found, and write it down."""
        self.found[name] = value
        text = json.dumps(self.found, indent=1)
        (self.out / "stage.json").write_text(text, encoding="utf-8")

    # -- parts -------------------------------------------------------------------------------------

    def versions(self) -> None:
        """What runs here."""
        versions = {"python": platform.python_version()}
        for name in PACKAGES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        self.keep("versions", versions)
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total",
            "--format=csv,noheader",
        ]
        with contextlib.suppress(OSError):
            done = subprocess.run(query, capture_output=True, text=True, check=False)
            self.keep("gpus", done.stdout.strip().splitlines())
        self.keep("cores", os.cpu_count())
        self.keep("date", time.strftime("%Y-%m-%d", time.gmtime()))

    def test(self, tests: Tests, *, limit_s: float, workers: int) -> bool:
        """Run tests until they end or the time is over; return whether pytest was content."""
        results = self.out / f"tests-{tests.name.replace(' ', '-')}.jsonl"
        results.unlink(missing_ok=True)  # of a stage before this one
        command = [sys.executable, "-m", "pytest", "--scripted-backend", "sglang"]
        command += ["-p", "gpu_results", "-p", "no:benchmark", "-q", "--tb=short"]
        # Other versions than the pinned ones may warn of other things.
        command += ["-W", "default"]
        if workers > 1:
            command += ["-n", str(workers), "--dist", "worksteal"]
        command += [*tests.options, *tests.paths]
        env = {"SCRIPTED_STAGE_RESULTS": str(results), "SCRIPTED_XDIST_SERVERS": "1"}
        log = self.out / f"tests-{tests.name.replace(' ', '-')}.log"
        start = time.monotonic()
        with _started(command, log, env) as process:
            status = _wait(process, min(limit_s, self.left_s - STOPPING_S))
            if status is None:
                self.note(f"{tests.name}: interrupted")
                process.send_signal(signal.SIGINT)
                _wait(process, STOPPING_S)
        ran = {
            "status": status,
            "seconds": round(time.monotonic() - start, 1),
            "workers": workers,
            "results": results.name,
        }
        self.keep("tests", {**self.found.get("tests", {}), tests.name: ran})
        return status == 0

    def measure(self, wanted: Sequence[Measurement]) -> bool:
        """Start everything side by side, then let one after the other measure; whether all did."""
        measured = 0
        with contextlib.ExitStack() as stack:
            started = [
                (
                    one,
                    stack.enter_context(
                        _started(self._command(one), self._log(one), {}, talks=True)
                    ),
                )
                for one in wanted
            ]
            end = time.monotonic() + min(READY_LIMIT_S, self.left_s)
            ready = [(one, process) for one, process in started if _is_ready(process, end)]
            for one, process in started:
                if (one, process) not in ready:
                    self.note(f"{one.name}: did not start, see {self._log(one).name}")
            for one, process in ready:
                self.note(f"measuring {one.name}")
                assert process.stdin is not None, "it talks"
                process.stdin.write(b"go\n")
                status = _wait(process, min(MEASURE_LIMIT_S, self.left_s))
                file = self._file(one)
                if status == 0 and file.exists():
                    figures = json.loads(file.read_text(encoding="utf-8"))
                    self.keep("figures", {**self.found.get("figures", {}), one.name: figures})
                    measured += 1
                else:
                    self.note(f"{one.name}: ended with {status}, see {self._log(one).name}")
                    _end(process)
        return measured == len(wanted)

    def _file(self, one: Measurement) -> Path:
        return self.out / f"figures-{one.name.replace(' ', '-').replace(',', '')}.json"

    def _log(self, one: Measurement) -> Path:
        return self._file(one).with_suffix(".log")

    def _command(self, one: Measurement) -> list[str]:
        return [sys.executable, "-m", "bench.gpu", one.what, str(self._file(one)), *one.arguments]


@contextlib.contextmanager
def _started(
    command: Sequence[str], log: Path, env: Mapping[str, str], *, talks: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended afterwards with all that it has started."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(TOOLS), os.environ.get("PYTHONPATH")]))
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path, **env},
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else sink,
            stderr=sink,
            start_new_session=True,
            bufsize=0,
        )
    try:
        yield process
    finally:
        _end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _is_ready(process: subprocess.Popen[bytes], end: float) -> bool:
    """Whether it says so, on a line of its standard output, before the end."""
    assert process.stdout is not None, "it talks"
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            more = os.read(process.stdout.fileno(), 65536)
            said += more
            if b"ready" in said.splitlines():
                return True
            if not more:
                return False
    return False


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    try:
        return process.wait(max(0.0, limit_s))
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, for its servers' sake, and then make it."""
    if process.poll() is None:
        process.terminate()
        _wait(process, STOPPING_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def on_device(wanted: Sequence[Measurement], device: str | None) -> tuple[Measurement, ...]:
    """The same on another device than the GPU, if one is named."""
    given = () if device is None else (f'device="{device}"',)
    return tuple(Measurement(one.name, one.what, (*one.arguments, *given)) for one in wanted)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage; the exit status says whether everything ran and passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for what is found")
    parser.add_argument("--gpus", type=int, choices=(1, 2), default=1)
    parser.add_argument("--budget-s", type=float, default=420.0, metavar="SECONDS")
    parser.add_argument(
        "--workers", type=int, default=WORKERS, metavar="N", help="tests side by side"
    )
    parser.add_argument(
        "--tests", nargs="+", metavar="PATH", help="other tests than those for so many GPUs"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        type=Only,
        choices=tuple(Only),
        metavar="PART",
        help="only these parts: " + ", ".join(Only),
    )
    parser.add_argument("--device", default=None, help="'cpu' rehearses without a GPU")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    stage = Stage(given.out.resolve(), time.monotonic() + given.budget_s)
    stage.versions()
    tests = TESTS[given.gpus] if not given.tests else Tests("chosen", tuple(given.tests))
    content = True
    if given.gpus == 1 and not given.only:
        stage.note("a first server, which compiles what it needs")
        if not stage.test(FIRST_SERVER, limit_s=SMOKE_LIMIT_S, workers=1):
            stage.note("it did not pass; nothing else is run")
            return 1
    for part in given.only or (Only.FIGURES, Only.TESTS):
        if part is Only.TESTS:
            stage.note(f"tests: {tests.name}")
            content = stage.test(tests, limit_s=stage.left_s, workers=given.workers) and content
        else:
            wanted = FIGURES[given.gpus] if part is Only.FIGURES else ALONE[part]
            content = stage.measure(on_device(wanted, given.device)) and content
    stage.note("done")
    return 0 if content else 1


if __name__ == "__main__":
    sys.exit(main())
