"""Speculative decoding: a draft model guesses tokens, one forward of the model verifies them.

A decode feeds a request's newest token and the guesses behind it, a chain as with SGLang's top-k 1.
The model's own choice at each position is what comes out: up to the first guess that differs from it,
and its choice there. So the output is that of an engine without speculation, token for token, also when
it samples, and one iteration gives a request one to `speculative_num_steps` + 1 tokens.

After Leviathan, Kalman and Matias (2023), "Fast inference from transformers via speculative decoding",
with equality in the place of rejection sampling: a choice here depends on seed and position alone.
"""
