"""Runs one Envoy for hours under steady load, while policies change and services fail, and adds up what it counts.

The Envoy has two listeners with the same routes to two versions: `graygate` with the filter, and `plain` without it.
The load, and what counts as lost, as a wrong version or as a wrong gate, are those of `chaos`. The schedule repeats.

At the end, the load pauses, and all of this must hold:

- Each request has an answer, and none went wrong at the filter's listener that did not at the plain one.
- Envoy and the filter have counted the same requests, versions, gates and probes as the clients.
- Each upstream has left each phase as often as it has entered it.
- Wrong policies were refused, and no others.
- No more VMs are there than at the start.
- Memory is as in the second round of the schedule, but for a stated slack.

Then VMs die, and another module takes the place of this one. The VMs of the run must end.

Percentiles are of the pairs of requests that a version has answered with 200 at both listeners.
"""
