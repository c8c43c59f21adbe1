"""A service for tests: it fails, dawdles and streams on demand. Not there outside of tests."""
