"""What happens outside that the engine has to know of."""
