"""The reference engine as a server: an HTTP front and a scheduler, in a process each.

The front (`front`, and the routes) speaks SGLang's HTTP API and turns text into tokens and back. It
starts the scheduler process (`scheduler_process`), which runs the same engine as an in-process session.
Between them are two ZMQ sockets with the messages of `wire`. In a session of scripted the scheduler
process also has the hook, with `adapter.ServerAdapter`.

Nothing is imported here: the front starts its scheduler before it imports what it needs itself.
"""
