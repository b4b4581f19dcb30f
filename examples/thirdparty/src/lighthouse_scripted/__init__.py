"""Somebody else's additions to scripted."""
