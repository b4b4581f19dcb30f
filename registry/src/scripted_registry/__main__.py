"""`python -m scripted_registry` lists the registered CI stages and tests."""

from __future__ import annotations

from scripted_registry.ci.cli import main

if __name__ == "__main__":
    main()
