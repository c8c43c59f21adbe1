"""What Envoy is given for the edge: the words of its refusals, and filters in Lua."""
