"""Launches: accepting them, the pipeline that does them, and following it."""

from services.backend.launches.handlers import LaunchService

__all__ = ["LaunchService"]
