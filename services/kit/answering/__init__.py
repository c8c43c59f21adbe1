"""Lists and event streams, as handlers answer them."""
