"""What only a test turns on: failures at named points, and simulated ones."""
