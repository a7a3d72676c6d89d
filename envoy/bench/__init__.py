"""What graygate costs: CPU time of the Envoy process per request, over the same listener without it.

- All contestants of a table are listeners of one Envoy, with one worker unless the table is about
  workers. They are asked in turn, round after round, so that what slows the machine down slows all.
- A burst's CPU time is that of all of Envoy's threads, from the kernel's scheduler, from before the
  load begins until after it has ended; divided by the requests that the load counted.
- What a contestant costs over no filter is a difference within each round, and then the median of
  these. Nothing is taken off: what a policy does on its ticks is in it.
- Nobody is measured before they have answered as they should, and no answer of a burst may be other.

CPU time and not latency: a proxy's cost is the cores that it takes from the app beside it, and the
time of an answer tells more of the load than of the filter.
"""
