"""What the pure tests share: properties are checked without a clock over them."""

from hypothesis import settings

# The machine may be busy with a mesh: how long one example takes says nothing.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
