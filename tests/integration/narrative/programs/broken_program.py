"""A process that says why it cannot start, and ends."""

raise SystemExit("the weights are missing")
