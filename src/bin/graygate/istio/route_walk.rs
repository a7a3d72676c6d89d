//! The way of one version's requests through a table of routes, and what is wrong with it.

use graygate::policy::document::Node;
use graygate::policy::release::version::Version;
use graygate::policy::spelling::nearest;
use graygate::value::baggage;

use super::cluster::ServiceCluster;
use super::condition::{KnownRequest, TextMatch, Verdict};
use super::direction::Direction;
use super::findings::Findings;
use super::placed_release::PlacedRelease;
use super::route::{Destination, Route, RouteAction, RouteTable};

/// Returns what is known of a version's requests that meet one alternative of the release's `match`. The filter writes one of
/// `values` into the header.
pub fn request<'a>(
    placed: &PlacedRelease<'a>,
    header: &'a str,
    values: &'a [String],
    alternative: Option<&'a Node>,
) -> KnownRequest<'a> {
    let at_gateway = placed.proxies.direction == Direction::Gateway;
    let port = placed.clusters.first().map(|cluster| cluster.port);
    KnownRequest {
        steered: Some((header, values)),
        alternative,
        port: port.filter(|_| !at_gateway),
        at_gateway,
        namespace: placed.proxies.namespace,
        labels: placed.proxies.labels,
    }
}

/// The routes that requests take.
pub struct Walked<'r, 'n> {
    /// The routes that take some of them, before the one that takes the rest.
    pub some: Vec<&'r Route<'n>>,
    /// The index of the route that takes the rest.
    pub rest: Option<usize>,
}

impl<'r, 'n> Walked<'r, 'n> {
    /// Follows requests through the routes.
    pub fn through(routes: &'r [Route<'n>], request: &KnownRequest<'_>) -> Self {
        let mut some = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            match route.verdict(request) {
                Verdict::Never => {}
                Verdict::Maybe => some.push(route),
                Verdict::Always => return Walked { some, rest: Some(index) },
            }
        }
        Walked { some, rest: None }
    }
}

/// The requests of one version on their way through the routes.
pub struct Traveler<'a, 'r> {
    /// The release.
    pub placed: &'r PlacedRelease<'a>,
    /// The routes.
    pub table: &'r RouteTable<'r>,
    /// The header that the release steers by.
    pub header: &'r str,
    /// The version.
    pub version: &'r Version,
    /// The version's cluster.
    pub cluster: &'r ServiceCluster<'a>,
    /// What is known of the requests.
    pub request: &'r KnownRequest<'r>,
}

impl<'r> Traveler<'_, 'r> {
    fn leads_home(&self, route: &Route<'_>) -> bool {
        let mut destinations = route.destinations().peekable();
        destinations.peek().is_some() && destinations.all(|destination| destination.is(self.cluster))
    }

    fn at(&self, path: &str) -> String {
        format!("{}: {}: {path}", self.table.object.file, self.table.object)
    }

    /// Reports where the requests end, if it is not at the version's cluster. Returns the paths of the routes to blame.
    pub fn report_end(&self, walked: &Walked<'_, '_>, findings: &mut Findings) -> Vec<&'r str> {
        let Traveler { placed, table, header, version, cluster, .. } = self;
        let label = &placed.label;
        let routes: &'r [Route<'r>] = &table.routes;
        let rest = walked.rest.and_then(|index| routes.get(index));
        if let Some(route) = rest.filter(|route| self.leads_home(route)) {
            let _ = route;
            return Vec::new();
        }
        if let Some(route) = rest.filter(|route| matches!(route.action, RouteAction::Delegate)) {
            findings.note(format!(
                "{}: its routes were not checked, as {} of {} in {} leaves them to another resource",
                placed.start, route.path, table.object, table.object.file
            ));
            return Vec::new();
        }
        // A route to the version's cluster tells best what was meant.
        let (name, value) = (*header, version.name.as_str());
        let is_whole = placed.release.steer.member().is_none();
        let written =
            self.request.steered.and_then(|(_, values)| values.first()).map_or(value, String::as_str);
        let later = walked.rest.map_or(&[][..], |index| routes.get(index + 1..).unwrap_or_default());
        let behind = later
            .iter()
            .find(|route| self.leads_home(route) && route.verdict(self.request) != Verdict::Never);
        if let (Some(route), Some(before)) = (behind, rest) {
            findings.problem(format!(
                "{}: never reached by requests with {name}: {written}, as {} takes them before, so version {value} of {label} gets none. Move {} before {}.",
                self.at(&route.path), before.path, route.path, before.path
            ));
            return vec![&route.path, &before.path];
        }
        for route in routes.iter().filter(|route| self.leads_home(route)) {
            let mut conditions = route.header_conditions();
            let own = conditions.find(|(_, key, _)| key.eq_ignore_ascii_case(name));
            if let Some((path, _, TextMatch::Exact(text))) = own
                && is_whole
                && !placed.release.versions.iter().any(|version| version.name == text)
            {
                let names: Vec<&str> =
                    placed.release.versions.iter().map(|version| version.name.as_str()).collect();
                findings.problem(format!(
                    "{}: {text:?} is not a version of {label}, so version {value} gets no request; allowed: {}; did you mean {value:?}?",
                    self.at(path), names.join(", ")
                ));
                return vec![&route.path];
            }
            if own.is_some() {
                continue;
            }
            if let Some((path, key, _)) =
                route.header_conditions().find(|(_, key, _)| nearest(key, &[name]).is_some())
            {
                findings.problem(format!(
                    "{}: {label} writes {name} and not {key}, so version {value} gets no request; did you mean {name:?}?",
                    self.at(path)
                ));
                return vec![&route.path];
            }
        }
        let partial = walked.some.iter().find(|route| {
            self.leads_home(route)
                && route.header_conditions().any(|(_, key, _)| key.eq_ignore_ascii_case(name))
        });
        let place = rest.map_or("spec.http", |route| route.path.as_str());
        let end = rest.map_or_else(|| "get 404".to_owned(), |route| describe_end(route));
        let is_unread = |route: &&&Route<'_>| {
            let mut own = route.header_conditions().filter(|(_, key, _)| key.eq_ignore_ascii_case(name));
            own.any(|(_, _, text)| text.holds_for(written, false) == Verdict::Maybe)
        };
        if let Some(route) = partial.as_ref().filter(|route| is_unread(route)) {
            findings.note(format!(
                "{}: whether version {value} of {label} meets its regular expression was not checked, as only Envoy can read it",
                self.at(&route.path)
            ));
            let path = routes.iter().map(|route| route.path.as_str()).find(|path| *path == route.path);
            return path.into_iter().collect();
        }
        if let Some(route) = partial {
            let (conditions, remedy) = match placed.release.steer.member() {
                Some(key) => (
                    "conditions",
                    format!(
                        "Match {name} by regex: '{}', or add a route by that alone behind it",
                        baggage::pattern(key, value)
                    ),
                ),
                None => ("other conditions", format!("Add a route by {name} alone behind it")),
            };
            findings.problem(format!(
                "{}: only some requests with {name}: {written} meet its {conditions}, and the others {end}, not to version {value} of {label}. {remedy}",
                self.at(&route.path)
            ));
            return vec![];
        }
        let is_own = |route: &&Route<'_>| {
            route.header_conditions().any(|(_, key, _)| key.eq_ignore_ascii_case(name))
                || route.alternatives.is_empty()
                    && placed
                        .release
                        .versions
                        .get(placed.release.default)
                        .is_some_and(|default| default.name == *value)
        };
        let wrong = rest.filter(is_own).and_then(|route| {
            let destination = route.destinations().find(|destination| !destination.is(cluster))?;
            Some((route, destination))
        });
        if let Some((route, destination)) = wrong {
            findings.problem(format!(
                "{}: {} is not the cluster of version {value} of {label}, which is {cluster}; allowed: {}",
                self.at(&destination.path),
                self.describe(destination),
                destination_of(cluster)
            ));
            return vec![&route.path];
        }
        let condition = match placed.release.steer.member() {
            Some(key) => format!("regex: '{}'", baggage::pattern(key, value)),
            None => format!("exact: {value}"),
        };
        let route = format!(
            "{{match: [{{headers: {{{name}: {{{condition}}}}}}}], route: [{{destination: {}}}]}}",
            destination_of(cluster)
        );
        let allowed = match rest {
            Some(route_before) => format!("before {}: {route}", route_before.path),
            None => route,
        };
        findings.problem(format!(
            "{}: no route for version {value} of {label}: requests with {name}: {written} {end}; allowed: {allowed}",
            self.at(place)
        ));
        Vec::new()
    }

    /// Reports routes that take some of the requests to another version.
    pub fn report_detours(&self, walked: &Walked<'_, '_>, blamed: &[&str], findings: &mut Findings) {
        let Traveler { placed, header, version, cluster, .. } = self;
        for route in walked.some.iter().filter(|route| !blamed.contains(&route.path.as_str())) {
            let is_other = |destination: &&Destination<'_>| {
                !destination.is(cluster) && placed.clusters.iter().any(|other| destination.is(other))
            };
            if let Some(destination) = route.destinations().find(is_other) {
                findings.problem(format!(
                    "{}: requests with {header}: {} that meet it go to {} and not to version {} of {}. Move it behind the routes by {header}, or make it a match of the version in the policy.",
                    self.at(&route.path), version.name, self.describe(destination), version.name, placed.label
                ));
            }
        }
    }

    /// Describes a destination, and what is wrong with its host.
    fn describe(&self, destination: &Destination<'_>) -> String {
        let host = self.cluster.host;
        let text = describe(destination);
        if destination.host.is_cut(host) {
            return format!(
                "{text}, whose name is taken as it stands, as Istio completes only a name without a dot,"
            );
        }
        text
    }
}

fn describe(destination: &Destination<'_>) -> String {
    let Destination { host, subset, port, .. } = destination;
    let subset = if subset.is_empty() { String::new() } else { format!("subset {subset} of ") };
    let port = port.map(|port| format!(" port {port}")).unwrap_or_default();
    format!("{subset}{}{port}", host.text)
}

/// Says where requests go by a route.
fn describe_end(route: &Route<'_>) -> String {
    match &route.action {
        RouteAction::Answer(field) => format!("are answered by {field} of {}", route.path),
        RouteAction::Delegate => format!("are left to another resource by {}", route.path),
        RouteAction::Send(_) => {
            let all: Vec<String> = route.destinations().map(describe).collect();
            let all = if all.is_empty() { "nowhere".to_owned() } else { format!("to {}", all.join(" and ")) };
            format!("go by {} {all}", route.path)
        }
    }
}

/// Returns the destination that is a cluster, as a VirtualService has it.
pub fn destination_of(cluster: &ServiceCluster<'_>) -> String {
    let ServiceCluster { port, subset, host, .. } = cluster;
    let subset = if subset.is_empty() { String::new() } else { format!("subset: {subset}, ") };
    format!("{{host: {host}, {subset}port: {{number: {port}}}}}")
}
