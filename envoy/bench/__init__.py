"""Measures the CPU time of the Envoy process per request with graygate, compared with the same listener without it.

- All contestants of a table are listeners of one Envoy, with one worker unless the table is about workers. They get
  load in turn, round after round, so that anything that slows the machine down affects all of them.
- Envoy has a core of its own where there are two or more, except in the table about workers (`placement`).
- The CPU time of a burst is that of all of Envoy's threads, as the kernel's scheduler counts it. It is taken before the
  load begins and after it has ended, and divided by the number of requests.
- What a contestant costs over no filter is told twice. One figure is the median of the differences within each round.
  The other is the least cost of all rounds, less the least cost without a filter. In both, the cost of a policy's ticks
  is included.
- A verdict on a limit goes by the rounds. It is "too noisy to tell" if chance could have made as many of them keep the
  limit, or exceed it, or if other things kept more than a tenth of a core busy (`figures`).
- Each contestant is verified before it is measured, and every response of a burst must be as expected.

The measure is CPU time and not latency. The cost of a proxy is the cores that it takes from the app beside it. Latency
depends more on the load than on the filter.

In the table with cold caches, the caches are swept between short bursts of eight requests. Beside a busy app, or on a
machine whose caches are shared, little of Envoy's memory is cached when a request comes. What a request touches then
has to come from main memory, and a measurement under a steady load hides that. The sweep reads more memory than the
caches hold. It runs on Envoy's core, whose own caches only a program there can sweep, and while Envoy waits. It is
another process (`sweep`), so its CPU time is not counted.

In the table of bodies, Envoy's buffers have the size that Istio gives them. So a body comes in parts, as in a mesh.
"""
