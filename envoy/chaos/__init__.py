"""Lets things fail around an Envoy under load, and counts what users lose with graygate and without it.

One Envoy has two listeners with the same routes to two versions: `graygate` with the filter, and `plain` without it.
The load is in pairs: 150 times a second, each listener gets one request at the same instant. The plain request names
the version that the policy gives to the user, as `graygate explain` says before the scenario.

- *Failed*: no response within five seconds, a reset, or a 5xx that no upstream sent. A gate's reply is not a failure.
- *Lost alone*: failed at the filter's listener, while the plain one lost none that was sent within 0.1 s of it.
- *Gated*: a gate's reply. Each tenth request is for a path whose gate the policy forces to be closed.
- *Wrong version*: a response by another version than the policy gives to the user.
- *Wrong gate*: gated though the upstream was well, or forwarded though the policy forces the gate to be closed. While
  an upstream fails, and for two seconds after, its gate may be closed.

A client sends a request once more if the proxy closes a reused connection before any byte of the response, as HTTP
clients do.

Each scenario says what it tolerates, which is nothing but for a VM that dies and for a module that cannot be fetched.
The rest must be 0 at the filter's listener, or the run fails.
"""
