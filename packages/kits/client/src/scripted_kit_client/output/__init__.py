"""A report for people and programs: rich on a terminal, Markdown, JSON, an SVG plot."""
