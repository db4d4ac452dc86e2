"""What the report says, for somebody who does not know netlink."""

# what the words on the page mean
WORDS = """
<p>Linux can give a program a network of its own: a <b>network namespace</b>, with its own interfaces, addresses
and routes. Containers live in such namespaces. To let two of them talk, somebody has to lay a cable between
them. fastnl lays these cables, and this page shows how long that takes, and how long it takes other
programs.</p>
<dl>
<dt>connection</dt><dd>Such a cable. A <b>veth</b> pair has an end in each of two namespaces of one machine. A
<b>vxlan</b> has one end here and reaches the other over the network of the machine.</dd>
<dt>spread, star, mesh, dense</dt><dd>Where the cables go. Spread: every pair has two namespaces of its own.
Star: all have one end in the same namespace. Mesh: every namespace is connected with every other one. Dense:
all are between the same two.</dd>
<dt>the floor</dt><dd>A small C program that sends the kernel exactly the bytes that fastnl sent, and does
nothing else. Nobody who sends these bytes can be faster; what fastnl takes beyond it is fastnl's own.</dd>
<dt>born, moved</dt><dd>An interface can be made where it belongs, or made elsewhere and then moved. A move
makes the kernel wait until every processor has let go of the old place, often ten or twenty milliseconds each time.
Most of what programs lose, they lose here. So each program is shown in both forms where it can do both.</dd>
<dt>the seed's sequence</dt><dd>How the kernel forwarding plane of Network Service Mesh makes a connection: create,
look up, move, look up again, rename, give an address, bring up; one message at a time.</dd>
<dt>us, ms</dt><dd>Millionths and thousandths of a second, for each connection.</dd>
<dt>round, ratio</dt><dd>Everyone takes turns, many times: that is a round. The figure is the middle one of the
rounds. A ratio compares two contenders in the same round, so that a moment in which the machine was busy with
something else hits both; in brackets are the smallest and the largest of all rounds. Ratios mean more than
times: times differ from machine to machine.</dd>
</dl>
"""

TARGETS = (
    "The figures that fastnl set out to reach. The floor was measured in the same rounds: what it reaches is the best "
    "that these messages can do on this machine. Where the floor misses a figure too, the kernel's own work forbids "
    "it. Against the peers the better of two floors counts: one opens its namespaces and sockets as fastnl does, the "
    "other has them open before the clock runs."
)

# and each experiment
MEANINGS = {
    "bytes": (
        "Before the kernel can do anything it has to be told, in messages of a few hundred bytes. This is what "
        "writing these messages costs, and reading the kernel's, with no kernel involved."
    ),
    "batches": (
        "One call to fastnl can carry one connection or hundreds. The more it carries, the more often a trip to a "
        "namespace is shared. The dotted lines are the floor: where the lines touch, fastnl adds nothing. Shaded: "
        "from the slowest to the fastest round."
    ),
    "sizes": (
        "Each address and each route is one more message, and one more thing for the kernel to keep. The first "
        "shape is measured with some and with many, the others with four of each."
    ),
    "changes": (
        "An update gives a connection another address and another size of packets where it is. A move takes one end to "
        "another namespace and keeps the interface with its counters: the kernel waits for every single one, so that "
        "many at a time are no cheaper. To recreate is to make the connection anew in its new place: it is another "
        "interface then, and many at a time wait together. Solid lines are the library, dotted ones the floor. The "
        "scale is logarithmic."
    ),
    "levels": (
        "The library is called by a program directly. The engine is a service: it takes requests from many "
        "programs, writes down what it does so that a crash loses nothing, and keeps the network so. Durable "
        "means that it waits for the disk before it says that it is done. etcd and gRPC are other ways to ask it."
    ),
    "layers": (
        "Each colour is what one more thing adds. The first four are the kernel's own work, which nobody can "
        "leave out. The last three are what fastnl takes for itself."
    ),
    "lone": (
        "How long one request takes. Read it like this: at the height of 50 half of the requests are answered, at "
        "99 all but one of a hundred. On the left one request is made after the other with nothing else going on. "
        "In the others, requests come at random moments, whether the engine is ready or not, and the clock runs "
        "from the moment at which the request should have been sent: a stall cannot hide."
    ),
    "clients": (
        "Many programs ask the engine at the same time, each with many requests on their way. The more ask, the more "
        "requests the engine can take together to the kernel and to the disk."
    ),
    "arrivals": ("The figures behind the right part of the picture of latencies: requests at random moments."),
    "growth": (
        "A kernel with ten thousand interfaces has longer lists to walk than one with ten. A flat line means that "
        "one more connection costs the same however many there are."
    ),
    "deletes": (
        "To delete an interface, the kernel waits until nobody can be using it any more. Deleted one by one, each "
        "waits for itself. fastnl puts all that shall go into a group and deletes the group, so that they wait "
        "together. The floor deletes all in one sweep, too. The scale is logarithmic: each step to the right is ten "
        "times more."
    ),
    "peers": (
        "The same connections, made by other programs, each in a process of its own. Grey: others; pale: the form "
        "with a move. fastnl is there in that form too, and one message at a time without the moves: so it shows what "
        "being born in place brings, and what the rest. The floor that keeps its sockets does not even pay for opening "
        "a namespace. The scale is logarithmic: each step to the right is ten times more."
    ),
    "peers-changes": (
        "Connections that are up get another address and another size of packets, and one end of each goes to another "
        "namespace. In a move everybody waits for the kernel, and nobody can be much faster than the floor. The scale "
        "is logarithmic."
    ),
}
