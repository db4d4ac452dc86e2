"""Where configuration comes from, besides jobs over ZeroMQ."""
