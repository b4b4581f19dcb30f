"""A prefill/decode pair: two schedulers, and the transfer that moves KV from one to the other."""
