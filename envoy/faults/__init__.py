"""Compares graygate, Envoy's outlier detection, both and neither: while upstreams fail, and while they are well.

**Outages**: all hosts of an upstream fail in one of eight ways. One Envoy has a listener for each contestant, with an
upstream of its own and the same steady load. All upstreams are healthy at first. Then they fail at the same moment, one
fault after the other. Between two faults, all contestants recover.

**Healthy events**: what happens to an upstream that is well, such as a host that dies among five. Each event has an
Envoy of its own, with a listener and an upstream for each contestant. What counts is what *others* get: the clients
that do nothing unusual.

- A response is *good* if it is a complete 200 in less than half a second. In an event it may take longer, or be 101.
- It is *refused* if the proxy itself responds, in as short a time, that it will not forward the request. In an event,
  only graygate refuses.
- It has *failed* otherwise.
- The gate *closes* with the first request that is refused, if at least 18 of the next 19 are, too. One of them may be a
  trial. A run of 20 reaches all workers.
- A contestant has *recovered* with the first request in a run of 20 that are all good.

Requests are in the order in which they were sent, so a slow response counts at the time of its request. The failures of
a fault are those of the requests that were sent while it lasted. If the gate never closed, all of them count as before
the gate. How soon a contestant recovers depends on how much of its wait is left when the upstream becomes healthy. That
is the same moment for all.
"""
