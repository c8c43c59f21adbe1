"""The mesh: the contract, its rendering to Envoy, and the supervisor that runs the real parts."""
