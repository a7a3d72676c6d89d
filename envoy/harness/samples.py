"""Random requests. They draw from small pools of values, so that conditions on these often hold or just fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from .config import Tree

PATHS = ("/", "/a", "/A", "/a/", "/a/b", "/a%2Fb", "/a;x=1", "//a", "/ab", "/livez", "/readyz", "/deepz", "/drainz")
QUERIES = ("", "", "", "?q=1", "?q=2&q=1", "?q", "?q=", "?q=&q=1", "?q=%31", "?Q=1", "?&&q==1", "?x=?q=1&uid=bob", "?")
HOSTS = (
    *("reviews", "REVIEWS", "reviews:8443", "shop.example.com", "Shop.Example.com:80", "[::1]", "10.0.0.1"),
    *("reviews.shop", "Reviews.shop.svc:9080", "reviews.shop.svc.cluster.local"),
)
METHODS = ("GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE")
USERS = ("alice", "bob", "carol", "Alice", "", "0", "user-7", "692d6000-0123456789abcdef", "ff000000-0123456789abcdef")
COOKIES = (
    *("gray=always", "gray=never; gray=always", "a=b;gray=always", "gray", "gray=", " gray = always", "GRAY=always"),
    *(
        "user=692d6000-0123456789abcdef",
        "gray=692d6000-0",
        'user="alice"',
        "user=alice",
        "user=; user=bob",
        "; ;user=carol;",
        "user=692d6000-0123456789abcdef",
        "=;=;;",
    ),
)
BAGGAGE = (
    *("lane=v1", "lane=v2", "lane=v9;p=1, user-id=alice", "user-id=alice,lane=%76%32", "a=b;c , lane = v2 ;d"),
    *("user-id=al%69ce", "user-id=", "user-id=bob, user-id=carol", 'user-id="alice",user-id=bob', "LANE=v2,lane"),
    *("lane=v1,lane=v2,a=b", ",,=;", "a=%zz,lane=u2", "lane=", ",".join(["a=b"] * 64), "user-id=bob,a=" + "x" * 8180),
)
VALUES = ("true", "TRUE", "", "1", "true,false", "a b", "yes/no")
STEERED = ("v1", "v2", "v3", "v9", "u0", "u2", "")
HEADERS = ("x-a", "x-b", "x-tester", "accept")
# The clusters of the upstreams `u0` to `u3`: plain names, and those that Istio gives two services.
PLAIN_CLUSTERS = tuple(f"u{number}" for number in range(4))
ISTIO_CLUSTERS = (
    *("outbound|9080|v1|reviews.shop.svc.cluster.local", "outbound_.9080_.v2_.reviews.shop.svc.cluster.local"),
    *("outbound|9080||reviews.shop.svc.cluster.local", "outbound|443||shop.example.com"),
)
# The header that names the cluster of a request's route. Other requests go to DEFAULT_CLUSTER.
ROUTE_HEADER, DEFAULT_CLUSTER = "x-to", "echo"
SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.1.1")


@dataclass
class Sample:
    """A request. `http` is the version, 1 or 2. Over HTTP/1, the scheme `https` is part of an absolute target."""

    http: int = 1
    method: str = "GET"
    scheme: str = "http"
    authority: str = "reviews"
    target: str = "/"
    headers: list[tuple[str, str]] = field(default_factory=list)
    source: str = "127.0.0.1"
    trusted: str = ""  # an address in x-forwarded-for, which the proxy believes

    def question(self) -> Tree:
        """Returns the request as `graygate explain --requests` takes it, which is as the proxy shows it to filters."""
        headers: dict[str, list[str]] = {}
        for name, value in self.all_headers():
            headers.setdefault(name.lower(), []).append(value)
        # Envoy joins the values of some headers that it knows before a filter sees them.
        for name, glue in {"accept": ",", **({"cookie": "; "} if self.http == 2 else {})}.items():
            if name in headers:
                headers[name] = [glue.join(filter(None, headers[name]))]
        return {
            "method": self.method,
            "path": self.target,
            "scheme": self.scheme,
            "authority": self.authority,
            "source": f"{self.trusted or self.source}:{0 if self.trusted else 50000}",
            "cluster": headers.get(ROUTE_HEADER, [DEFAULT_CLUSTER])[0],
            "headers": headers,
        }

    def is_order(self) -> bool:
        """Returns whether the request may begin or end a drain, which changes the answers to later ones."""
        return self.target.startswith("/drainz") and self.method not in {"GET", "HEAD"}

    def is_grpc(self) -> bool:
        return any(name.lower() == "content-type" and value == "application/grpc" for name, value in self.headers)

    def all_headers(self) -> list[tuple[str, str]]:
        return [*self.headers, *([("x-forwarded-for", self.trusted)] if self.trusted else [])]


def request(rng: Random) -> Sample:
    headers: list[tuple[str, str]] = []
    for name in HEADERS:
        headers += [(name, rng.choice(VALUES)) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    if rng.random() < 0.5:
        headers += [("x-user-id", rng.choice(USERS)) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.5:
        headers += [("cookie", rng.choice(COOKIES)) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.4:
        headers += [("baggage", rng.choice(BAGGAGE)) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.3:
        headers += [("x-gray-version", rng.choice(STEERED)) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.2:
        headers.append(("x-gray-cluster", rng.choice(STEERED)))
    if rng.random() < 0.7:
        headers.append((ROUTE_HEADER, rng.choice(PLAIN_CLUSTERS + ISTIO_CLUSTERS)))
    if rng.random() < 0.1:
        headers.append(("content-type", rng.choice(("application/grpc", "application/json"))))
    # With more headers, the filter asks for each by its name.
    if rng.random() < 0.3:
        headers += [(f"x-filler-{number}", "y") for number in range(50)]
    rng.shuffle(headers)
    http = rng.choice((1, 1, 2))
    if http == 1:
        headers = [(name.title() if rng.random() < 0.2 else name, value) for name, value in headers]
    return Sample(
        http=http,
        method=rng.choice(METHODS),
        scheme=rng.choice(("http", "http", "http", "https")),
        authority=rng.choice(HOSTS),
        target=rng.choice(PATHS) + rng.choice(QUERIES),
        headers=headers,
        source=rng.choice(SOURCES) if http == 1 else SOURCES[0],
        trusted=rng.choice(("", "", "", "10.1.2.3", "203.0.113.9")),
    )
