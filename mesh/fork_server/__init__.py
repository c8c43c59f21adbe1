"""Starts replicas by forking one process that has imported everything: fast, and memory is shared.

`server.py` is that process, `client.py` asks it on behalf of the supervisor, `child.py` makes a
fresh process of each fork, and `adoption.py` makes it a child of the supervisor.
"""
