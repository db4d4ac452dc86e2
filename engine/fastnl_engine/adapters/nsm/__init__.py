"""The forwarder of a Network Service Mesh: both generations of its gRPC API in front of the engine.

pb          messages and services, generated
translate   from what the mesh asks for to the engine's connections; pure
policies    policy routes, and numbers for their tables; pure
inodes      which process or name a namespace's number belongs to
gate        gRPC's server as the engine sees it: calls to answer, from a process of its own
speaker     that process
frames      what the two say to each other
relay       in front of gRPC: receives the descriptors that come along
plane       connections of one generation: one at a time for each id, and what becomes of them
monitor     streams of events
counters    what went through connections
tls         certificates
legacy      first generation: Forwarder, MechanismsMonitor, MonitorCrossConnect, and its manager
modern      later generation: NetworkService, MonitorConnection, and its registry
settings    the environment that deployments of the mesh set
start       all of it on a thread with a loop of its own
"""

import fastnl_engine.kv  # noqa: F401  says how grpc is to be set up, which must come before its import
