"""The demo: a real Envoy, two versions of a service, and what graygate does when they fail.

Every line of the table is measured just before it is printed. The exit code is 1 if a line is not as it should be.
target/demo.html then has the table, and pictures of what was measured. `demo.py pictures` also draws the README's
picture. `demo.py up` leaves everything running instead, for use with curl.
"""

from __future__ import annotations

import signal
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from demo_pictures import AFTER, Row, Story, page, whole_picture
from harness import health
from harness.built import are_built
from harness.client import Response, get
from harness.envoy import PROJECT, Envoy
from harness.load import Answer, Load, Request, drive
from harness.local import FILTER_FILE, Local, discovery
from harness.service import Service
from harness.wait import until, until_all

USERS = 10_000
PROBES = 1_000
# The time without a failure, in seconds, after which requests count as moved to v1.
FAILURE_FREE = 1.0


class Table:
    """Prints rows of what is measured, the result and what it should be, below a heading for each job."""

    def __init__(self, story: Story) -> None:
        self.jobs = story.jobs
        self.line("", "WHAT", "MEASURED", "SHOULD BE")

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.jobs.values() for row in rows]

    @property
    def good(self) -> bool:
        return all(row.good for row in self.rows)

    def heading(self, job: str) -> None:
        self.jobs[job] = []
        print(f"\n{job}", flush=True)

    def row(self, what: str, measured: str, wanted: str, *, good: bool) -> None:
        next(reversed(self.jobs.values())).append(Row(what, measured, wanted, good))
        self.line("ok " if good else "NOT", what, measured, wanted)

    def line(self, *cells: str) -> None:
        widths = (3, 48, 44, 0)
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


class Demo:
    def __init__(self, envoy: Envoy, v1: Service, v2: Service) -> None:
        self.envoy, self.v1, self.v2 = envoy, v1, v2
        self.gray, self.plain = envoy.port("graygate"), envoy.port("plain")
        self.users = [Request("/reviews", {"x-user-id": f"user-{number}"}) for number in range(USERS)]
        self.story = Story()
        self.table = Table(self.story)

    def run(self) -> bool:
        until_all(lambda: get(self.gray, "/readyz").status == 200, 30, "/readyz 200")
        self.table.heading("Probes")
        self.probes()
        self.table.heading("Releases")
        first = self.split()
        raised = self.raise_weight(first)
        self.kill_canary(raised)
        self.table.heading("Gates")
        gated, waited = self.hang_last()
        self.recover(raised)
        self.story.summary = self.summary(gated, waited)
        print(f"\n{self.story.summary}", flush=True)
        return self.table.good

    def summary(self, gated: float, waited: float) -> str:
        rows = self.table.rows
        good = sum(row.good for row in rows)
        back = self.story.raised["v2", "v1"]
        (failed, whole), (plain, of) = (self.story.failed(each) for each in (self.story.gray, self.story.plain))
        return (
            f"{good} of {len(rows)} lines are as they should be. {back} of {USERS:,} users moved back. When v2 died, "
            f"{failed} of {whole:,} requests of its users failed, and {plain:,} of {of:,} without graygate. "
            f"With v1 hung, too, an answer came after {gated * 1000:.1f} ms instead of {waited:.1f} s."
        )

    def probes(self) -> None:
        before = self.v1.count() + self.v2.count()
        for path in ("/livez", "/readyz"):
            right = sum(answer.status == 200 for answer in drive(self.gray, [Request(path)] * PROBES))
            self.table.row(f"{path} asked {PROBES} times", f"{right} times 200", f"{PROBES}", good=right == PROBES)
        reached = self.v1.count() + self.v2.count() - before
        self.table.row("of these, requests that reached an app", f"{reached}", "0", good=reached == 0)
        serving, _ = health.check(self.gray)
        self.table.row("grpc.health.v1.Health/Check", serving, "SERVING", good=serving == "SERVING")
        for order, wanted in (("POST", 503), ("DELETE", 200)):
            get(self.gray, "/drainz", method=order)
            # Each worker sees the order on its own tick.
            until_all(lambda: get(self.gray, "/readyz").status == wanted, 30, f"/readyz {wanted}")
            measured = f"/readyz {get(self.gray, '/readyz').status}, /livez {get(self.gray, '/livez').status}"
            what = "told to drain" if order == "POST" else "drain taken back"
            self.table.row(what, measured, f"{wanted}, 200", good=measured == f"/readyz {wanted}, /livez 200")

    def split(self) -> list[Answer]:
        first = drive(self.gray, self.users)
        self.share("v2 has weight 10 of 100", first, 10)
        moved = count_moved(first, drive(self.gray, self.users))
        self.table.row("the same users again: moved", f"{moved}", "0", good=moved == 0)
        return first

    def raise_weight(self, before: list[Answer]) -> list[Answer]:
        refusal = self.envoy.put(FILTER_FILE, discovery("raised", {"v1": 70, "v2": 30}))
        if refusal:
            raise SystemExit(f"{FILTER_FILE}: refused by Envoy: {refusal}")
        after = drive(self.gray, self.users)
        self.story.raised = Counter((a.version or "", b.version or "") for a, b in zip(before, after, strict=True))
        self.share("weight of v2 raised to 30, no restart", after, 30)
        ahead, back = count_moved(before, after, "v1", "v2"), count_moved(before, after, "v2", "v1")
        self.table.row("moved from v1 to v2", f"{ahead} users", "only these", good=ahead > 0)
        self.table.row("moved back from v2 to v1", f"{back} users", "0", good=back == 0)
        return after

    def share(self, what: str, answers: list[Answer], percent: int) -> None:
        share = 100 * sum(answer.version == "v2" for answer in answers) / len(answers)
        served = all(answer.status == 200 for answer in answers)
        measured = f"{share:.2f} % of {len(answers)} users on v2"
        self.table.row(what, measured, f"{percent} % ± 1", good=served and abs(share - percent) < 1)

    def kill_canary(self, placed: list[Answer]) -> None:
        canary = [user for user, answer in zip(self.users, placed, strict=True) if answer.version == "v2"]
        # Without the filter, the route follows the header that the users bring, which sends them to v2 as well.
        led = [Request(user.path, {**dict(user.headers), "x-gray-version": "v2"}) for user in canary]
        with Load(self.gray, canary, rate=500) as load, Load(self.plain, led, rate=500) as plain:
            until(lambda: len(load.answers) > 300 and len(plain.answers) > 300, 30, "300 answers to v2's users")
            killed = time.monotonic()
            self.v2.kill()
            until(lambda: self.moved_over(load, killed), 30, "v2's users served by v1")
            until(lambda: time.monotonic() > killed + AFTER, 10, "the end of the picture")
        self.story.gray, self.story.plain, self.story.killed = load.answers, plain.answers, killed
        after = load.since(killed)
        failed = [answer for answer in after if answer.status != 200]
        last = max((answer.answered for answer in failed), default=min(answer.answered for answer in after))
        # Measures up to the end of the last failure. From then on, every request is served.
        took = last - killed
        self.table.row("v2 killed under 500 requests/s: on v1 after", f"{took:.2f} s", "under 2 s", good=took < 2)
        measured = "{} of {}".format(*self.story.failed(load.answers))
        # The gate needs a quarter of a second without a success, so that nothing short of an outage closes it.
        self.table.row("requests that failed in between", measured, "under 250", good=len(failed) < 250)
        failed_without, whole = self.story.failed(plain.answers)
        good = failed_without > 0.9 * whole
        self.table.row("the same without graygate", f"{failed_without} of {whole}", "nearly all", good=good)

    @staticmethod
    def moved_over(load: Load, killed: float) -> bool:
        latest = load.since(max(killed, time.monotonic() - FAILURE_FREE))
        is_enough = time.monotonic() - killed > FAILURE_FREE and len(latest) > 50
        return is_enough and all(answer.status == 200 and answer.version == "v1" for answer in latest)

    def hang_last(self) -> tuple[float, float]:
        """Returns how long a request takes with graygate and without, in seconds."""
        self.v1.process.send_signal(signal.SIGSTOP)
        hung = time.monotonic()
        # Uses a short timeout, so that a hanging request does not delay the measurement.
        until(lambda: is_gated(get(self.gray, "/reviews", timeout=0.1)), 30, "503 from graygate with v1 hung")
        took = time.monotonic() - hung
        self.table.row("v1 hangs too: noticed after", f"{took:.2f} s", "under 5 s", good=took < 5)
        times = []
        for _ in range(100):
            asked = time.monotonic()
            answer = get(self.gray, "/reviews")
            times.append(time.monotonic() - asked)
        median = statistics.median(times) * 1000
        measured = f"{answer.status} in {median:.1f} ms (median of 100)"
        self.table.row("a request then", measured, "503, under 5 ms", good=is_gated(answer) and median < 5)
        asked = time.monotonic()
        without = get(self.plain, "/reviews")
        waited = time.monotonic() - asked
        self.table.row("the same without graygate", f"{without.status} after {waited:.1f} s", "a wait", good=waited > 1)
        print(f"     graygate's answer: retry-after: {answer.headers['retry-after']}; {answer.text.strip()}")
        return median / 1000, waited

    def recover(self, placed: list[Answer]) -> None:
        self.v1.process.send_signal(signal.SIGCONT)
        self.v2.start()
        back = time.monotonic()
        # Enough users to need more requests to each version than a trial lets through.
        sample = slice(0, 300)
        before, users = placed[sample], self.users[sample]
        until(lambda: not count_moved(before, drive(self.gray, users)), 20, "all users on their version")
        took = time.monotonic() - back
        self.table.row(
            "both back: all served by their own version after", f"{took:.2f} s", "under 10 s", good=took < 10
        )
        final = drive(self.gray, self.users)
        lost = count_moved(placed, final)
        self.table.row("users not where they were before", f"{lost} of {USERS}", "0", good=lost == 0)


def count_moved(before: list[Answer], after: list[Answer], was: str | None = None, now: str | None = None) -> int:
    """Returns how many users have another version than before. If given, counts only moves from `was` to `now`."""
    moves = [(a.version, b.version) for a, b in zip(before, after, strict=True) if a.version != b.version]
    return len([move for move in moves if was is None or move == (was, now)])


def is_gated(answer: Response) -> bool:
    return answer.status == 503 and "retry-after" in answer.headers


def stay_up(envoy: Envoy) -> None:
    gray, plain = envoy.port("graygate"), envoy.port("plain")
    print(
        f"""\
Envoy runs with graygate, and v1 and v2 behind it. Try:

  curl -i 127.0.0.1:{gray}/readyz                          answered at the proxy
  curl -i 127.0.0.1:{gray}/hello -H 'x-user-id: alice'     alice's version, always the same
  curl -i 127.0.0.1:{gray}/hello -H 'x-tester: true'       testers get v2
  curl -i 127.0.0.1:{plain}/hello                           Envoy without graygate
  curl -s 127.0.0.1:{envoy.admin_port}/stats/prometheus | grep ^graygate_

The policy is in {FILTER_FILE}: edit a copy and mv it there. Logs are in
{envoy.directory}. Ctrl-C ends all.""",
        flush=True,
    )
    with suppress(KeyboardInterrupt):
        signal.pause()


def main() -> int:
    order = sys.argv[1:]
    if order not in ([], ["up"], ["pictures"]):
        print(f'demo.py: argument {order[0]!r}; allowed: none, "up" or "pictures"', file=sys.stderr)
        return 2
    staying = order == ["up"]
    if not are_built({PROJECT / "dist/graygate.wasm": "make wasm"}):
        return 1
    local = Local()
    for port, other in local.moved.items():
        print(f"port {port} is taken; using {other} instead")
    # With `up`, the project's own files are in use. The demo edits a copy.
    setting = {"links": ("dist", "envoy")} if staying else {"files": {FILTER_FILE: discovery("first")}}
    # Turns SIGTERM into an exception, so that every process that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        v1 = stack.enter_context(Service("v1", local.port(8081)))
        v2 = stack.enter_context(Service("v2", local.port(8082)))
        envoy = stack.enter_context(Envoy(local.document, concurrency=2, **setting))
        if staying:
            stay_up(envoy)
            return 0
        demo = Demo(envoy, v1, v2)
        try:
            good = demo.run()
        except AssertionError as error:
            print(f"NOT  {error}\n--- the end of Envoy's log ---\n{envoy.tail()}")
            return 1
    write(PROJECT / "target/demo.html", page(demo.story))
    if order == ["pictures"] and good:
        write(PROJECT / "docs/pictures/demo.svg", whole_picture(demo.story))
    return 0 if good else 1


def write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    print(f"written: {file.relative_to(PROJECT)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
