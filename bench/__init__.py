"""The benchmark: how much time scripts cost, in the hook, in a session and beside other harnesses.

Run it with ``hatch run bench`` and ``hatch run sglang:bench``; ``docs/bench.md`` holds the table and
says what each row means.
"""
