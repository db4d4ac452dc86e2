"""What can be measured with an installed package: `fastnl bench` is its small form, and bench/ in the source has more.

workloads    what is wired, and the namespaces for it
contenders   who wires it: the library; `engine`, `seed_sequence`, `iproute2`, `pyroute2_peer`; `worker` runs one of
             them as a process of its own
rounds       how they take turns
churn        connections that come and go at random moments
results      what comes out, medians and ratios; `machine`: where it was measured
quick        what `fastnl bench` runs
"""
