"""All stages of a pipeline in one process, one after the other on one thread."""

from __future__ import annotations

from scripted_registry.errors import ConfigError

from scripted_reference.args import ServerArgs
from scripted_reference.engine import Engine
from scripted_reference.messages import EngineReq, FlushCacheReq, Message
from scripted_reference.models.sliding_window import sliding_window
from scripted_reference.pp.scheduler import PipelineScheduler
from scripted_reference.pp.stage import LocalPipe, Stage


def stages_of(args: ServerArgs) -> list[Stage]:
    """Return the stages of a configuration; `ConfigError` for a model that cannot be divided."""
    if sliding_window(args) is not None:
        raise ConfigError(
            f"engine arguments pp_size={args.pp_size} and model_path={args.model_path!r} with sliding "
            "windows do not go together in the reference engine",
            hint="use pp_size=1, or a model without sliding windows",
        )
    return [Stage(index, args.pp_size) for index in range(args.pp_size)]


class PipelineEngine(Engine):
    """A pipeline: one `iterate` is one microbatch slot, of each stage in its turn.

    Attributes:
        stages: the schedulers of all stages. `scheduler` is the first, which is the driver: it alone
            has an observer, and its requests are those that are told of.
    """

    def make_schedulers(self, args: ServerArgs) -> tuple[PipelineScheduler, ...]:
        """Make every stage; return the driver."""
        stages = stages_of(args)
        pipe = LocalPipe(len(stages))
        self.stages = tuple(
            PipelineScheduler(args, stage=stage, link=pipe.link(stage)) for stage in stages
        )
        return self.stages[:1]

    def all_schedulers(self) -> tuple[PipelineScheduler, ...]:
        """Return those of all stages."""
        return self.stages

    def iterate(self) -> None:
        """Run exactly one microbatch slot of every stage."""
        self.observer.before_receive()
        if self.inbox:
            self._deliver()
        for stage in self.stages:
            stage.run_iteration()

    def is_fully_idle(self) -> bool:
        """Return whether the engine is idle, with no slot in flight and nothing on its way in."""
        return not self.inbox and all(stage.is_fully_idle() for stage in self.stages)

    def flush_cache(self) -> bool:
        """Empty every stage's prefix tree; return `False`, and change nothing, unless all can."""
        return all(stage.can_flush() for stage in self.stages) and all(
            [stage.flush_cache() for stage in self.stages]
        )

    def _deliver_one(self, message: Message | EngineReq) -> None:
        if isinstance(message, EngineReq):
            message.fn(self)
        elif isinstance(message, FlushCacheReq):
            message.reply(self.flush_cache())
        else:
            for stage in self.stages:
                stage.process_input_requests([message])
