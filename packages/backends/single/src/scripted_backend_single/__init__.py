"""Single-device topology for scripted: engine arguments, fixtures, CI stages and scripts."""
