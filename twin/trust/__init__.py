"""How wrong the twin is: predictions against recorded measurements."""
