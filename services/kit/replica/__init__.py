"""The state of one replica: its configuration, whether it is ready, what it refuses."""
