"""Several hosts, each with its engine, that agree through etcd on the connections between them.

    client --job--> desk --transaction--> etcd --half--> engine of each host --outcome--> etcd --> desk --reply-->

keys, records   what is in etcd
membership      which hosts there are, which of them are alive, and this one among them
path            this host's own place in the underlay
desk, plan      jobs that were submitted here: from what is asked for to one transaction, and to a reply
waits           for what the hosts make of it
halves, local   what this host has to make
reports         telling the others what became of it
removal         a host that does not come back
show            what `fleet` and `list` tell
door, start     the way in from the thread that serves clients
"""
