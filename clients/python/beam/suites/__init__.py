"""Beam's own test suites, run against our server."""
