"""Adapter that runs scripts inside an unpatched SGLang."""
