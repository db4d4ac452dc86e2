# Makes the kernel declarations importable as fastnl.nl.uapi at compile time.
