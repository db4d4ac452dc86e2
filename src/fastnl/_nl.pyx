# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=False, embedsignature=False
"""The compiled part: netlink messages, namespaces and the threads that visit them.

One translation unit, so that the pieces under nl/ call each other as C functions.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.errno cimport EAGAIN, EINTR, EINVAL, EMSGSIZE, ENOBUFS, ENOMEM, EPROTO, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strchr, strerror, strlen, strncmp

from fastnl.nl.uapi cimport *

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(object)

import os
from typing import NamedTuple

from fastnl.errors import InvalidValue

include "nl/writer.pxi"
include "nl/reader.pxi"
include "nl/ack.pxi"
include "nl/addr.pxi"
include "nl/route.pxi"
include "nl/rule.pxi"
include "nl/rows.pxi"
include "nl/link.pxi"
include "nl/netns.pxi"
include "nl/glance.pxi"
include "nl/device.pxi"
include "nl/socket.pxi"
include "nl/tour.pxi"
