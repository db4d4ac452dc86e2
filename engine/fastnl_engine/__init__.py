"""The engine: a service that takes jobs over ZeroMQ and makes the kernel match.

Clients are in fastnl_engine.client; everything else is the service's own.
"""
