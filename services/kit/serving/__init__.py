"""The way of a call through a replica, from the door to the handler and back.

What every module of handlers needs is named here.
"""

from services.kit.kit import Kit
from services.kit.serving.call import Call, Effect
from services.kit.serving.composition import Serving

__all__ = ["Call", "Effect", "Kit", "Serving"]
