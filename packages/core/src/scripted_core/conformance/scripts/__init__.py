"""The scripts of the suite, a module for each part of what a script can do."""
