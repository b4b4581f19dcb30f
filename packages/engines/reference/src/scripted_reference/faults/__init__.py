"""Seeded faults: mistakes that the engine makes on demand, to prove that scripts find them.

`ServerArgs.inject_fault` names one of `catalogue.FAULTS`; without it nothing in here is imported.
`python -m scripted_reference.faults` measures which scripts find which fault.
"""
