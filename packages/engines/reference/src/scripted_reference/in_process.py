"""The engine in this very process, driven one iteration at a time."""

from __future__ import annotations

from collections.abc import Sequence

from scripted_core.ports import bind_port, unbind_port
from scripted_hook import EngineAdapter, ScriptedSchedulerHook
from scripted_registry import ConfigError, EngineConfig

from scripted_reference.adapter import ReferenceAdapter
from scripted_reference.args import DisaggregationMode, ServerArgs
from scripted_reference.argument_checks import wrong_argument
from scripted_reference.engine import Engine
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch


class HookObserver:
    """Carries what the scheduler reports to the hook."""

    def __init__(self, *, hook: ScriptedSchedulerHook, adapter: ReferenceAdapter) -> None:
        self._hook = hook
        self._adapter = adapter

    def before_receive(self) -> None:
        """An iteration begins."""
        self._hook.step()

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        """A batch goes to the model."""
        self._hook.on_run_batch(batch)

    def on_output(self, reqs: Sequence[Req]) -> None:
        """Requests have new output tokens."""
        self._adapter.on_output(reqs)

    def on_finish(self, req: Req) -> None:
        """A request has ended."""
        self._adapter.on_finish(req)


def make_engine(args: ServerArgs) -> tuple[Engine, ReferenceAdapter]:
    """Return the engine that the arguments ask for, and its adapter."""
    if args.disaggregation_mode == DisaggregationMode.PAIR:
        from scripted_reference.pd.adapter import PdAdapter
        from scripted_reference.pd.engine import PdEngine

        pair = PdEngine(args)
        return pair, PdAdapter(pair)
    if args.disaggregation_mode != DisaggregationMode.NULL:
        raise wrong_argument(
            "disaggregation_mode",
            args.disaggregation_mode,
            "is one of two servers, and this is an engine in the process of its tests",
            "use 'pair', which has both of them",
        )
    if args.pp_size > 1:
        from scripted_reference.pp.adapter import PipelineAdapter
        from scripted_reference.pp.engine import PipelineEngine

        pipeline = PipelineEngine(args)
        return pipeline, PipelineAdapter(pipeline)
    engine = Engine(args)
    return engine, ReferenceAdapter(engine)


class InProcessReference:
    """Engine, adapter and hook of one configuration."""

    def __init__(self, config: EngineConfig) -> None:
        args = parse_engine_kwargs(config.kwargs)
        if args.inject_fault is not None:
            _refuse_fault_of_servers(args.inject_fault)
        self.engine, adapter = make_engine(args)
        self.scheduler = self.engine.scheduler
        self._adapter: EngineAdapter = adapter
        bind_port(self.scheduler, adapter)
        self.hook = ScriptedSchedulerHook(
            scheduler=self.scheduler, tokenizer_recv_proxy=None, adapter=adapter
        )
        self.engine.kv.announce(adapter, runs_scripts_only=True)
        self.engine.observer = HookObserver(hook=self.hook, adapter=adapter)

    def iterate(self) -> None:
        """Exactly one scheduler iteration."""
        self.engine.iterate()

    def close(self) -> None:
        """Let go of the scheduler; may be called twice."""
        unbind_port(self.scheduler)
        self._adapter.close()


def _refuse_fault_of_servers(name: str) -> None:
    from scripted_reference.faults.of_servers import ServerFault

    if name in tuple(ServerFault):
        raise ConfigError(
            f"engine argument inject_fault={name!r} is a fault of servers, and this is none",
            hint="use --backend reference:server",
        )
