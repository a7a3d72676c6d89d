//! Users stay in one lane over three hops, each with its own proxy: gateway, service a and service b.
//!
//! Only the gateway decides. The proxies of a and b trust the header. The app of a copies it to the request that it
//! sends.

use serde_json::{Value, json};

use super::sim::{Request, World};

const HEADER: &str = "x-gray-version";

/// Returns the proxy of a service with these versions, of which the first is the default.
fn hop(service: &str, versions: &[&str], release: &Value) -> World {
    let mut upstreams = json!({});
    let mut listed = Vec::new();
    for version in versions {
        let cluster = format!("{service}-{version}");
        upstreams[&cluster] = json!({"cluster": cluster});
        let weight = if *version == "v1" { 70 } else { 30 };
        let default = listed.is_empty();
        listed.push(json!({"name": version, "upstream": cluster, "weight": weight, "default": default}));
    }
    let mut release = release.clone();
    release["name"] = json!(service);
    release["steer"] = json!({"header": HEADER});
    release["versions"] = json!(listed);
    let mut world = World::new(&json!({"name": service, "upstreams": upstreams, "releases": [release]}), 1);
    world.steer = HEADER;
    world.routes =
        versions.iter().map(|version| ((*version).to_owned(), format!("{service}-{version}"))).collect();
    world.route = format!("{service}-{}", versions[0]);
    world
}

struct Chain {
    gateway: World,
    a: World,
    b: World,
}

impl Chain {
    fn new(a: &[&str], b: &[&str]) -> Self {
        let trusts = json!({"trustIncoming": true});
        Chain {
            gateway: hop("gateway", &["v1", "v2"], &json!({"hashOn": [{"httpHeaderName": "x-user-id"}]})),
            a: hop("a", a, &trusts),
            b: hop("b", b, &trusts),
        }
    }

    /// Sends each user's request. Returns the lane that b's app sees and the versions of a and b that served the user.
    fn ask(&mut self, claims: Option<&str>) -> Vec<(String, String, String)> {
        let mut one = |user: u64| {
            let mut request = Request::get("/").with("x-user-id", &format!("user-{user}"));
            if let Some(claims) = claims {
                request = request.with(HEADER, claims);
            }
            let served = [&mut self.gateway, &mut self.a, &mut self.b].map(|hop| {
                let id = hop.start(0, &request);
                let lane = hop.sent_header(id, HEADER).unwrap();
                request = Request::get("/").with(HEADER, &lane);
                let cluster = hop.answer(id).cluster;
                (lane, cluster.rsplit_once('-').unwrap().1.to_owned())
            });
            let [_, (_, a), (lane, b)] = served;
            (lane, a, b)
        };
        (0..USERS).map(&mut one).collect()
    }
}

const USERS: u64 = 300;

fn count(world: &World, labels: &[&str]) -> u64 {
    world.metric("assignments_total", labels)
}

/// Returns how many users are in this lane. These versions served all of them.
fn in_lane(lanes: &[(String, String, String)], lane: &str, a: &str, b: &str) -> u64 {
    let here: Vec<_> = lanes.iter().filter(|(known, ..)| known == lane).collect();
    assert!(here.iter().all(|(_, by_a, by_b)| (by_a.as_str(), by_b.as_str()) == (a, b)));
    here.len() as u64
}

#[test]
fn a_user_stays_in_one_lane_over_all_hops() {
    let mut chain = Chain::new(&["v1", "v2"], &["v1", "v2"]);
    let first = chain.ask(None);
    let on_v2 = in_lane(&first, "v2", "v2", "v2");
    assert_eq!(in_lane(&first, "v1", "v1", "v1") + on_v2, USERS);
    assert!(on_v2.abs_diff(90) < 30, "{on_v2}");
    assert_eq!(chain.ask(None), first);
    for (hop, reason) in
        [(&chain.gateway, "reason=sticky"), (&chain.a, "reason=incoming"), (&chain.b, "reason=incoming")]
    {
        assert_eq!(count(hop, &["version=v2", reason]), 2 * on_v2);
        assert_eq!(count(hop, &[]), 2 * USERS);
    }
}

#[test]
fn a_last_service_without_the_version_serves_its_default_and_sees_the_lane() {
    let mut chain = Chain::new(&["v1", "v2"], &["v1"]);
    let lanes = chain.ask(None);
    let on_v2 = in_lane(&lanes, "v2", "v2", "v1");
    assert_eq!(in_lane(&lanes, "v1", "v1", "v1") + on_v2, USERS);
    assert_eq!(count(&chain.b, &["version=v1", "reason=no-such-version"]), on_v2);
    assert_eq!(count(&chain.b, &["version=v1", "reason=incoming"]), USERS - on_v2);
}

#[test]
fn a_service_in_between_without_the_version_passes_the_lane_on() {
    let mut chain = Chain::new(&["v1"], &["v1", "v2"]);
    let lanes = chain.ask(None);
    let on_v2 = in_lane(&lanes, "v2", "v1", "v2");
    assert_eq!(in_lane(&lanes, "v1", "v1", "v1") + on_v2, USERS);
    assert_eq!(count(&chain.a, &["version=v1", "reason=no-such-version"]), on_v2);
    assert_eq!(count(&chain.b, &["version=v2", "reason=incoming"]), on_v2);
}

#[test]
fn the_gateway_ignores_a_lane_that_a_client_requests() {
    let mut chain = Chain::new(&["v1", "v2"], &["v1", "v2"]);
    let honest = chain.ask(None);
    for claimed in ["v1", "v2", "v9", ""] {
        assert_eq!(chain.ask(Some(claimed)), honest, "{claimed}");
    }
    assert_eq!(count(&chain.gateway, &["reason=sticky"]), 5 * USERS);
    assert_eq!(count(&chain.b, &["reason=no-such-version"]), 0);
}
