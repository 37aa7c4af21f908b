"""`sparkctl`: what operators and scripts say to a daemon, and how its answers are shown."""
