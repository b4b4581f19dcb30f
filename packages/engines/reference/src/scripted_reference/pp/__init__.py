"""Pipeline parallelism: the layers of a model divided over stages, each with a scheduler and pools.

Every stage runs the same scheduler on the same messages, so all of them decide alike; what goes from
one to the next is the hidden state of a batch, and what comes back from the last is its result.
"""
