"""Open files: each connection at the edge is one, and Envoy falls silent when it has no more."""

import resource
from dataclasses import replace
from typing import Final

from mesh.topology import DEFAULT_MAX_CONNECTIONS, Topology, TopologyError

# What each of our processes opens at most beside callers' connections.
_OWN: Final = 512
_FEWEST: Final = 100


def fitted(topology: Topology) -> Topology:
    """The topology with as many connections at the edge as this process may hand on open files.

    Raises the soft limit, which children inherit.

    Raises:
        TopologyError: the hard limit does not allow what mesh.toml says, or hardly anything.
    """
    wanted = topology.edge.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = wanted if hard == resource.RLIM_INFINITY else hard - _OWN
    if room < min(wanted, _FEWEST) or (wanted > room and wanted != DEFAULT_MAX_CONNECTIONS):
        raise TopologyError(
            f"edge.max_connections is {wanted}, which takes {wanted + _OWN} open files, and the"
            f" limit is {hard}. Raise it ('ulimit -n {wanted + _OWN}', LimitNOFILE in systemd), or"
            " set edge.max_connections in mesh.toml lower."
        )
    allowed = min(wanted, room)
    if soft < allowed + _OWN:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed + _OWN, hard))
    return replace(topology, edge=replace(topology.edge, max_connections=allowed))
