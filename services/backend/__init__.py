"""The coordinator: users, projects, deployments, and the state of the platform."""
