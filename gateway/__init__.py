"""The edge: sign-in, health and reflection of the whole contract, and the shape of errors."""
