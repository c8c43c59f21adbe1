"""What the tests stand on: real installations, real users."""
