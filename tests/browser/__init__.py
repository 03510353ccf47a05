"""Real Chromium against the demo, served over real sockets."""
