"""From engine keyword arguments, SGLang's server argument names, to `ServerArgs`.

A name that means nothing here is refused with the nearest one that does. One that only matters to real
kernels, devices or servers (`mem_fraction_static`, `attention_backend`, ...) is accepted and listed in
`ServerArgs.without_effect`, so that a configuration written for a real engine can be used as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from scripted_registry.errors import ConfigError

from scripted_reference.args import HASH_MODEL, ServerArgs
from scripted_reference.argument_checks import wrong_argument

_WITHOUT_EFFECT: Final = frozenset(
    {
        "allow_auto_truncate",
        "api_key",
        "attention_backend",
        "chat_template",
        "cpu_offload_gb",
        "cuda_graph_bs",
        "cuda_graph_max_bs",
        "decode_log_interval",
        "disable_cuda_graph",
        "disable_cuda_graph_padding",
        "disable_custom_all_reduce",
        "disable_piecewise_cuda_graph",
        "download_dir",
        "dtype",
        "enable_torch_compile",
        "env",
        "grammar_backend",
        "host",
        "kv_cache_dtype",
        "log_level",
        "log_level_http",
        "log_requests",
        "log_requests_level",
        "mem_fraction_static",
        "nccl_port",
        "port",
        "quantization",
        "revision",
        "sampling_backend",
        "skip_server_warmup",
        "skip_tokenizer_init",
        "sleep_on_idle",
        "stream_interval",
        "tokenizer_mode",
        "tokenizer_path",
        "trust_remote_code",
        "watchdog_timeout",
    }
)

_ONLY_AS: Final[Mapping[str, tuple[tuple[object, ...], str]]] = {
    # name: the values that ask for nothing, and what the engine lacks
    "tp_size": ((None, 1), "tensor parallelism"),
    "ep_size": ((None, 1), "expert parallelism"),
    "nnodes": ((None, 1), "running on several nodes"),
    "enable_mixed_chunk": ((None, False), "mixing decodes into prefill batches"),
    "priority_scheduling_preemption_threshold": ((None,), "preemption by priority"),
    "enable_hierarchical_cache": ((None, False), "a hierarchical cache"),
}


def parse_engine_kwargs(kwargs: Mapping[str, Any]) -> ServerArgs:
    """Turn engine keyword arguments into `ServerArgs`; `None` stands for the default.

    Raises `ConfigError` for a name that is unknown, an argument that asks for something the engine
    cannot do, a value of the wrong type and a value that is impossible, each with what to do.
    """
    known = {field.name for field in fields(ServerArgs)} - {"without_effect"}
    values: dict[str, Any] = {}
    without_effect: list[str] = []
    for name, value in kwargs.items():
        if name in known:
            if value is not None:
                values[name] = value
        elif name in _WITHOUT_EFFECT:
            without_effect.append(name)
        elif name in _ONLY_AS:
            neutral, lack = _ONLY_AS[name]
            if not any(
                value is one or (value == one and type(value) is type(one)) for one in neutral
            ):
                raise wrong_argument(
                    name, value, f"is refused: the reference engine lacks {lack}", "drop it"
                )
        elif name.startswith("speculative_") and value is None:
            continue
        else:
            raise _unknown(name, known | _WITHOUT_EFFECT | _ONLY_AS.keys())
    args = ServerArgs(**values, without_effect=tuple(sorted(without_effect)))
    if args.model_path == HASH_MODEL:
        _check_hash_window(args)
    return _within_the_model(args, asked="context_length" in values)


def _check_hash_window(args: ServerArgs) -> None:
    # That of a model with a config is checked when the model is made.
    from scripted_reference.models.sliding_window import sliding_window  # it imports `args`

    window = sliding_window(args)
    if window is not None and not args.disable_hybrid_swa_memory:
        args.window_pool_tokens(window)


def _within_the_model(args: ServerArgs, *, asked: bool) -> ServerArgs:
    """Keep the context within the positions that the model was made for, as SGLang does."""
    if args.model_path == HASH_MODEL:
        return args
    from scripted_reference.models.folder import model_context_len  # which imports this module

    limit = model_context_len(args.model_path)
    if limit is None or args.context_length <= limit:
        return args
    if asked:
        raise wrong_argument(
            "context_length",
            args.context_length,
            f"is beyond the {limit} positions of the model",
            f"use {limit} or less, or leave it out",
        )
    return replace(args, context_length=limit)


def _unknown(name: str, known: set[str]) -> ConfigError:
    if name.startswith("speculative_"):
        return ConfigError(
            f"engine argument {name} is refused: the reference engine knows speculative decoding by a "
            "chain of guesses alone",
            hint="drop it",
        )
    import difflib  # only an error needs it

    near = difflib.get_close_matches(name, sorted(known), n=1)
    return ConfigError(
        f"the reference engine has no argument {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else "see scripted_reference.args.ServerArgs",
    )
