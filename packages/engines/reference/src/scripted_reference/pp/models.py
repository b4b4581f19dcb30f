"""From the engine's arguments to the layers of one stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from scripted_reference.args import HASH_MODEL
from scripted_reference.models.base import BatchResult, Model
from scripted_reference.models.factory import require_torch
from scripted_reference.models.folder import model_folder
from scripted_reference.pp.stage import Hidden, Stage
from scripted_reference.schedule_batch import ScheduleBatch

if TYPE_CHECKING:
    from scripted_reference.args import ServerArgs
    from scripted_reference.memory import ReqToTokenPool, TokenToKVPool


class StageModel(Model, Protocol):
    """The layers of one stage, bound to its KV storage."""

    def forward_stage(self, batch: ScheduleBatch, hidden: Hidden) -> Hidden | BatchResult:
        """Compute a prepared batch from what the stage before handed over; `None` on the first.

        The last stage returns the result, every other what the next one goes on from.
        """


def load_stage(
    args: ServerArgs, stage: Stage, *, kv_pool: TokenToKVPool, req_to_token_pool: ReqToTokenPool
) -> StageModel:
    """Return the layers of one stage of the model that `args.model_path` names.

    Raises `ConfigError` as `load_model` does, and for a model with fewer layers than stages.
    """
    if args.model_path == HASH_MODEL:
        from scripted_reference.pp.hash_stage import HashStage

        return HashStage(
            stage,
            kv_pool=kv_pool,
            req_to_token_pool=req_to_token_pool,
            seed=args.random_seed,
        )
    folder = model_folder(args.model_path)
    require_torch(args.model_path)
    from scripted_reference.models.transformer_model import load_transformer
    from scripted_reference.pp.devices import device_of

    return load_transformer(
        folder,
        load_format=args.load_format,
        device=device_of(args.device, stage),
        seed=args.random_seed,
        num_slots=kv_pool.size + kv_pool.page_size,
        req_to_token_pool=req_to_token_pool,
        lora_paths=args.lora_paths,
        config_overrides=args.json_model_override_args,
        stage=stage,
    )
