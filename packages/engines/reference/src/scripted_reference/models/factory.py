"""From the engine's arguments to a model with its KV storage."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from scripted_registry.errors import ConfigError

from scripted_reference.args import HASH_MODEL
from scripted_reference.models.folder import model_folder

if TYPE_CHECKING:
    from scripted_reference.args import ServerArgs
    from scripted_reference.hybrid_memory import WindowStorage
    from scripted_reference.memory import ReqToTokenPool, TokenToKVPool
    from scripted_reference.models.base import Model


def load_model(
    args: ServerArgs,
    *,
    kv_pool: TokenToKVPool,
    req_to_token_pool: ReqToTokenPool,
    window: WindowStorage | None = None,
) -> Model:
    """Return the model that `args.model_path` names; torch is imported only for one that needs it.

    Raises `ConfigError` for a folder without a usable model in it, and for an unusable device.
    """
    if args.model_path == HASH_MODEL:
        from scripted_reference.models.hash_model import HashModel

        return HashModel(
            kv_pool=kv_pool,
            req_to_token_pool=req_to_token_pool,
            seed=args.random_seed,
            window=window,
        )
    folder = model_folder(args.model_path)
    require_torch(args.model_path)
    from scripted_reference.models.transformer_model import load_transformer

    return load_transformer(
        folder,
        load_format=args.load_format,
        device=args.device,
        seed=args.random_seed,
        num_slots=kv_pool.size + kv_pool.page_size,
        req_to_token_pool=req_to_token_pool,
        lora_paths=args.lora_paths,
        config_overrides=args.json_model_override_args,
        window=window,
    )


def load_draft_model(
    args: ServerArgs, *, kv_pool: TokenToKVPool, req_to_token_pool: ReqToTokenPool
) -> Model:
    """Return the model that `args.speculative_draft_model_path` names, with storage of its own.

    Raises `ConfigError` as `load_model` does.
    """
    path = args.speculative_draft_model_path
    assert path is not None, "checked with the arguments"
    folder = model_folder(path)
    require_torch(path)
    from scripted_reference.models.transformer_model import load_transformer

    return load_transformer(
        folder,
        load_format=args.load_format,
        device=args.device,
        seed=args.random_seed,
        num_slots=kv_pool.size + kv_pool.page_size,
        req_to_token_pool=req_to_token_pool,
        lora_paths={},
    )


def require_torch(model_path: str) -> None:
    """Raise `ConfigError` unless what a transformer needs is installed."""
    for module in ("torch", "safetensors"):
        if find_spec(module) is None:
            raise ConfigError(
                f"the model {model_path!r} needs {module}, which is not installed",
                hint="pip install 'scripted-reference[tiny]', or use the model 'hash'",
            )
