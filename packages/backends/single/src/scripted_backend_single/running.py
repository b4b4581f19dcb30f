"""Running a scenario under a pressure, and comparing it with what is undisturbed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from scripted_chunked import run_until_finished
from scripted_chunked.steps import flush, require_at_rest, settle
from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.views import RequestStatus

from scripted_backend_single.pressures import PRESSURES, Pressure
from scripted_backend_single.scenarios import SCENARIOS, Prompt, Scenario

_STREAM_ENDS_WITHIN_S = 5.0


@dataclass(kw_only=True)
class ScenarioRun:
    """What came out of a scenario, and what the pressure did to it.

    ``waiting_steps`` counts iterations that a request began in the waiting queue, summed over requests;
    ``retracted`` are the rids that were running and then waiting; ``least_pages`` is the smallest number
    of KV pages that were free or evictable at a boundary.
    """

    handles: list[ScriptedReqHandle] = field(default_factory=list)
    waiting_steps: int = 0
    retracted: set[str] = field(default_factory=set)
    least_pages: int | None = None
    _were_running: set[str] = field(default_factory=set)

    def look(self, t: ScriptedContext) -> None:
        """Take down what there is at this boundary."""
        queues = t.queues
        self.waiting_steps += len(queues.waiting)
        self.retracted |= self._were_running & set(queues.waiting)
        self._were_running = {*queues.running, *queues.chunked}
        stats = t.engine_stats()
        pages = stats["kv_pool_free"] + stats["kv_pool_evictable"]
        self.least_pages = pages if self.least_pages is None else min(self.least_pages, pages)


def run_scenario(
    t: ScriptedContext, scenario: Scenario, pressure: Pressure
) -> Generator[None, None, ScenarioRun]:
    """Put the pressure on, run the scenario to its end, and take the pressure off."""
    for capability in sorted(scenario.needs | pressure.needs):
        t.require(capability, f"scenario {scenario.name!r} under pressure {pressure.name!r}")
    applied = yield from pressure.apply(t, scenario)
    run = ScenarioRun()
    driving = scenario.drive(t, scenario.prompts)
    while True:
        try:
            next(driving)
        except StopIteration as end:
            run.handles = end.value
            break
        applied.each_step()
        yield
        run.look(t)
    yield from applied.relieve()
    yield from settle(t)
    return run


def undisturbed_outputs(
    t: ScriptedContext, prompts: Sequence[Prompt]
) -> Generator[None, None, list[list[int]]]:
    """The output of each prompt when it runs alone on an empty engine."""
    known: dict[Prompt, list[int]] = {}
    for prompt in prompts:
        if prompt not in known:
            yield from flush(t)
            handle = prompt.start(t)
            yield from run_until_finished(handle)
            known[prompt] = handle.output_ids
            if len(known[prompt]) != prompt.max_new_tokens:
                raise AssertionError(f"{prompt} was answered with {known[prompt]}")
    yield from flush(t)
    return [known[prompt] for prompt in prompts]


def require_undisturbed(
    scenario: Scenario, handles: Sequence[ScriptedReqHandle], undisturbed: Sequence[Sequence[int]]
) -> None:
    """Check outputs and the clients' streams against those of an undisturbed run.

    Raises ``AssertionError`` that names the request. An aborted request's output has to be a beginning
    of the undisturbed one.
    """
    for i, (handle, expected) in enumerate(zip(handles, undisturbed, strict=True)):
        output = handle.output_ids
        aborted = handle.status is RequestStatus.ABORTED
        if aborted and i not in scenario.aborted:
            raise AssertionError(f"request {i}, {handle}, ended by {handle.finish_reason}")
        wanted = list(expected[: len(output)] if aborted else expected)
        if output != wanted:
            raise AssertionError(
                f"request {i}, {handle}, of scenario {scenario.name!r} ({scenario.prompts[i]}) was "
                f"answered with\n  {output}\nand undisturbed it is\n  {wanted}"
            )
        if not handle.client.wait_ended(_STREAM_ENDS_WITHIN_S):
            raise AssertionError(f"the stream of request {i}, {handle}, did not end")
        if handle.client.token_ids != output:
            raise AssertionError(
                f"request {i}, {handle}: its client received\n  {handle.client.token_ids}\n"
                f"and the engine put out\n  {output}"
            )


def compare_with_undisturbed(
    t: ScriptedContext, *, scenario: str, pressure: str
) -> Generator[None, None, ScenarioRun]:
    """Run a scenario by its name under a pressure by its name; outputs are the undisturbed ones.

    Afterwards nothing is left of it: all memory is free or in the prefix tree.
    """
    chosen = SCENARIOS[scenario]
    undisturbed = yield from undisturbed_outputs(t, chosen.prompts)
    run = yield from run_scenario(t, chosen, PRESSURES[pressure])
    require_undisturbed(chosen, run.handles, undisturbed)
    require_at_rest(t)
    return run
