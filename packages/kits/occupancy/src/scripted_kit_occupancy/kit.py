"""The kit `occupancy`: the share of time in forwards while one request decodes, above a floor.

One request alone is where the host's own work weighs most: a scheduler that waits, or kernels that are
launched one by one, show here before batched throughput moves. After SGLang's own occupancy test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripted_core.errors import CapabilityMissing
from scripted_kit_client.client import REFERENCE_ENGINE, ServerClient
from scripted_kit_client.errors import CheckFailed
from scripted_kit_client.kit import Kit, KitRun
from scripted_kit_client.options import option
from scripted_kit_client.report import Outcome, Series, Table

from scripted_kit_occupancy import baseline
from scripted_kit_occupancy.measure import Measurement, measure, scrape
from scripted_kit_occupancy.samples import Across, Summary, across_ranks, by_rank, fresh, summary_of
from scripted_kit_occupancy.scrape import Scrape

DEFAULT_PROMPT: Final = (
    "Here is a long story about a lighthouse keeper, told from the beginning.\n\n"
)
_SPARE_TOKENS: Final = 8
_SWITCH: Final = {
    REFERENCE_ENGINE: (
        "enable_metrics=True",
        "enable_metrics_device_timer=True (or SGLANG_ENABLE_METRICS_DEVICE_TIMER=1 in the server's "
        "environment)",
    ),
    "sglang": (
        "--enable-metrics",
        "SGLANG_ENABLE_METRICS_DEVICE_TIMER=1 in the server's environment",
    ),
}


@dataclass(frozen=True, kw_only=True)
class OccupancyOptions:
    """The defaults are SGLang's."""

    threshold: float = option(95.0, "the median has to be above it, in percent", at_least=0)
    min_samples: int = option(5, "so many scrapes with a number are needed", at_least=1)
    scrape_interval_s: float = option(0.5, "seconds between two scrapes", above=0)
    scrape_timeout_s: float = option(10.0, "seconds that a scrape may take", above=0)
    across: Across = option(Across.MAX, "which rank's value counts where several are busy")
    acc_length_threshold: float = option(
        1.8, "floor of the accept length, where the server speculates", at_least=0
    )
    warmup_max_new_tokens: int = option(
        64, "tokens of the request before the measurement", at_least=1
    )
    max_new_tokens: int = option(
        2048, "tokens of the measured request, or what the server has room for", at_least=1
    )
    prompt: str = option(DEFAULT_PROMPT, "what is generated after")
    request_timeout_s: float = option(600.0, "seconds that the measured request may take", above=0)
    baseline: Path | None = option(
        None, "file of recorded medians: the floor is the one of this runner"
    )
    margin: float = option(2.0, "points that the floor is below the recorded median", at_least=0)
    record: Path | None = option(None, "file to write this run's median into")
    runner: str = option("default", "the kind of machine that medians are recorded for")


async def check_occupancy(run: KitRun, options: OccupancyOptions) -> None:
    """Precondition, warm-up, measurement, tables, and then the checks, in this order."""
    client = run.client
    # A file that cannot be used is said before anything is asked.
    threshold = _threshold(client, options)
    if options.record is not None:
        baseline.look_at(options.record)
    _refuse_engines_without(client)
    first = await _metrics(client, options)
    run.progress.begin("warm-up", None)
    warm = await client.generate(
        "warm-up. " + options.prompt, max_new_tokens=options.warmup_max_new_tokens, ignore_eos=True
    )
    before = await scrape(client, timeout_s=options.scrape_timeout_s)
    _look_at_timer(client, first=first, after_warm_up=before)
    run.note("device timer", Outcome.PASSED, f"{before.gauge} is there")
    room = _room(client.facts.arguments) - warm.prompt_tokens - _SPARE_TOKENS
    seen = await measure(
        client,
        prompt=options.prompt,
        max_new_tokens=min(options.max_new_tokens, room),
        interval_s=options.scrape_interval_s,
        scrape_timeout_s=options.scrape_timeout_s,
        request_timeout_s=options.request_timeout_s,
        progress=run.progress,
    )
    average = await client.accept_length()
    own = seen.generation.accept_length
    accept_length = average if own is None else own
    scrapes = fresh(seen.scrapes, before)
    found = summary_of(across_ranks(scrapes, options.across))
    _tell(run, seen, scrapes, found, threshold=threshold, accept_length=accept_length)
    _judge(run, seen, found, options, threshold=threshold)
    _judge_accept_length(run, accept_length, options, average=average)
    if options.record is not None and found.count >= options.min_samples:
        key = _key(client, options)
        baseline.record(options.record, key, median=found.median, samples=found.count)


OCCUPANCY: Final = Kit(
    name="occupancy",
    summary="share of time in forwards while one request decodes",
    options=OccupancyOptions,
    look=check_occupancy,
)


def _refuse_engines_without(client: ServerClient) -> None:
    if client.facts.engine not in _SWITCH:
        raise CapabilityMissing(
            f"{client.facts.engine} exposes no share of time in forwards (fwd_occupancy)",
            hint="SGLang on a GPU and the reference engine have it",
        )
    if client.facts.engine == "sglang" and client.facts.arguments.get("device") == "cpu":
        raise CapabilityMissing(
            "SGLang's device timer (fwd_occupancy) takes events of a GPU, and this server has "
            "device='cpu'"
        )


async def _metrics(client: ServerClient, options: OccupancyOptions) -> Scrape:
    switch, _ = _SWITCH[client.facts.engine]
    reply = await client.http.get("/metrics", timeout_s=options.scrape_timeout_s)
    if reply.status in (401, 403):
        await client.http.get_ok("/metrics")
    if not reply.is_ok:
        raise CheckFailed(
            f"/metrics has status {reply.status}: the server was started without {switch}, "
            "so its occupancy is not known"
        )
    return await scrape(client, timeout_s=options.scrape_timeout_s)


def _look_at_timer(client: ServerClient, *, first: Scrape, after_warm_up: Scrape) -> None:
    """A gauge that is missing, or that nothing fills, says nothing about occupancy."""
    _, timer = _SWITCH[client.facts.engine]
    if first.gauge is None and after_warm_up.gauge is None:
        raise CheckFailed(
            "/metrics has no fwd_occupancy: the server was started without its device timer "
            f"({timer}), so its occupancy is not known"
        )
    is_sglang = client.facts.engine == "sglang"
    if is_sglang and not after_warm_up.numbers and not after_warm_up.has_timer_counter:
        raise CheckFailed(
            "fwd_occupancy is NaN and no forward was timed in the warm-up: the server was started "
            f"without its device timer ({timer}), so its occupancy is not known"
        )


def _room(arguments: Mapping[str, Any]) -> int:
    """Tokens that prompt and output can have together, as far as the server tells."""
    told = [
        arguments.get(name)
        for name in ("context_length", "max_total_num_tokens", "max_req_input_len")
    ]
    return min((value for value in told if isinstance(value, int)), default=1_000_000)


def _key(client: ServerClient, options: OccupancyOptions) -> str:
    facts = client.facts
    return baseline.key_of(
        engine=facts.engine,
        model=facts.model,
        tokens=options.max_new_tokens,
        runner=options.runner,
    )


def _threshold(client: ServerClient, options: OccupancyOptions) -> float:
    if options.baseline is None:
        return options.threshold
    return baseline.floor_from(options.baseline, _key(client, options), margin=options.margin)


def _tell(
    run: KitRun,
    seen: Measurement,
    scrapes: tuple[Scrape, ...],
    found: Summary,
    *,
    threshold: float,
    accept_length: float | None,
) -> None:
    generation, elapsed_s = seen.generation, seen.elapsed_s
    tokens = generation.completion_tokens
    rows = [
        ("input tokens", str(generation.prompt_tokens)),
        ("output tokens", str(tokens)),
        ("seconds", f"{elapsed_s:.2f}"),
        ("tokens a second", f"{tokens / elapsed_s:.1f}"),
        ("mean ms a token", f"{1000 * elapsed_s / max(tokens, 1):.3f}"),
    ]
    if accept_length is not None:
        rows.append(("accept length", f"{accept_length:.3f}"))
    ranks = by_rank(scrapes)
    lines = {rank: summary_of([value for _, value in points]) for rank, points in ranks.items()}
    lines = {"judged": found, **(lines if len(lines) > 1 else {})}
    run.findings.tables += [
        Table(title="the request", columns=("figure", "value"), rows=tuple(rows)),
        Table(
            title=f"fwd_occupancy in percent, floor {threshold:.2f}",
            columns=("rank", "samples", "median", "p10", "least", "peak"),
            rows=tuple((name, *_cells(one)) for name, one in lines.items()),
        ),
    ]
    run.findings.series.append(
        Series(
            title="fwd_occupancy",
            unit="%",
            points=tuple(ranks.items()),
            lines=(("floor", threshold),),
        )
    )
    run.findings.figures.update(
        median=found.median,
        p10=found.p10,
        least=found.least,
        peak=found.peak,
        samples=found.count,
        scrapes=len(seen.scrapes),
        failed_scrapes=seen.failed_scrapes,
        threshold=threshold,
        output_tokens=tokens,
        elapsed_s=round(elapsed_s, 4),
        accept_length=accept_length,
    )


def _cells(one: Summary) -> tuple[str, ...]:
    values = (one.median, one.p10, one.least, one.peak)
    return (str(one.count), *(f"{value:.2f}" for value in values))


def _judge(
    run: KitRun,
    seen: Measurement,
    found: Summary,
    options: OccupancyOptions,
    *,
    threshold: float,
) -> None:
    tokens = seen.generation.completion_tokens
    scraped = f"{found.count} of {len(seen.scrapes)} scrapes have a number"
    if seen.failed_scrapes:
        scraped += f", {seen.failed_scrapes} more had no answer"
    if found.count < options.min_samples:
        why = (
            f"{scraped} while {tokens} tokens were generated, and {options.min_samples} are needed: "
            "the request is too short, or the gauge stays NaN"
        )
        run.note("samples", Outcome.FAILED, why)
        run.note("median", Outcome.SKIPPED, "too few samples to say anything about occupancy")
        return
    run.note("samples", Outcome.PASSED, scraped)
    run.judge(
        "median",
        found.median > threshold,
        f"median {found.median:.2f} %, floor {threshold:.2f} % "
        f"(p10 {found.p10:.2f}, peak {found.peak:.2f}, {found.count} samples)",
    )


def _judge_accept_length(
    run: KitRun,
    accept_length: float | None,
    options: OccupancyOptions,
    *,
    average: float | None,
) -> None:
    """The measured request's own, where it is told; else the server's mean since its start."""
    if accept_length is None:
        message = "the server does not speculate (SPEC_DECODE)"
        run.note("accept length", Outcome.SKIPPED, message)
        return
    floor = options.acc_length_threshold
    run.judge(
        "accept length",
        accept_length > floor,
        f"accept length {accept_length:.3f}, floor {floor:g}"
        + ("" if average is None else f" (avg_spec_accept_length of the server {average:.3f})")
        + ("" if accept_length > floor else ": hardly a draft token is accepted"),
    )
