//! The routes on which a filter is on, and the policies that take it away from there.

use super::extension::{self, TargetRef};
use super::findings::GatewayFindings;
use super::route::{GatewayRoute, GatewayRule};
use crate::istio::model::Object;
use crate::tree::{get, get_text, items};

/// A route on which a filter is on.
pub struct PlacedRoute<'a, 'n> {
    /// The route.
    pub route: &'a GatewayRoute<'n>,
    /// The rule to which the filter is limited, if it is.
    pub section: Option<&'n str>,
}

impl<'a, 'n> PlacedRoute<'a, 'n> {
    /// Returns the rules on which the filter is on, with their numbers.
    pub fn rules(&self) -> impl Iterator<Item = (usize, &'a GatewayRule<'n>)> {
        let section = self.section;
        let rules = self.route.rules.iter().enumerate();
        rules.filter(move |(_, rule)| section.is_none() || rule.name == section)
    }
}

/// The routes of one EnvoyExtensionPolicy.
pub struct Placement<'a, 'n> {
    /// The routes that the files have.
    pub routes: Vec<PlacedRoute<'a, 'n>>,
    /// Whether the files may lack routes on which the filter is on.
    pub is_partial: bool,
}

/// Finds the routes of an EnvoyExtensionPolicy. Reports targets that it cannot have.
pub fn find<'a, 'n>(
    (index, object): (usize, &Object<'n>),
    routes: &'a [GatewayRoute<'n>],
    findings: &mut GatewayFindings,
) -> Placement<'a, 'n> {
    let mut placement = Placement { routes: Vec::new(), is_partial: false };
    let targets = extension::targets(object);
    if targets.is_empty() {
        placement.is_partial = true;
        if items(get(object.node, &["spec", "targetSelectors"])).is_empty() {
            findings.problem(index, "spec", "targetRefs: missing, so the filter is on nowhere. Add targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: NAME}]".to_owned());
        } else {
            findings.note(
                index,
                "spec.targetSelectors",
                "the routes were not checked: which targets have the labels is only known in the cluster"
                    .to_owned(),
            );
        }
    }
    for target in targets {
        match target.kind {
            "HTTPRoute" => add_route(&mut placement, (index, object), target, routes, findings),
            "Gateway" => {
                let attached =
                    routes.iter().filter(|route| route.is_attached(object.namespace, target.name));
                let known = placement.routes.len();
                placement.routes.extend(attached.map(|route| PlacedRoute { route, section: None }));
                if placement.routes.len() == known {
                    placement.is_partial = true;
                    findings.note(index, "spec.targetRefs", format!("the routes were not checked: no file has an HTTPRoute of Gateway {}/{}", object.namespace, target.name));
                }
            }
            "GRPCRoute" | "ListenerSet" | "XListenerSet" => placement.is_partial = true,
            kind => findings.problem(index, "spec.targetRefs", format!("{kind} {} is not allowed there: the filter is of HTTP; allowed: Gateway, HTTPRoute, GRPCRoute, ListenerSet", target.name)),
        }
    }
    placement
}

fn add_route<'a, 'n>(
    placement: &mut Placement<'a, 'n>,
    (index, object): (usize, &Object<'n>),
    target: TargetRef<'n>,
    routes: &'a [GatewayRoute<'n>],
    findings: &mut GatewayFindings,
) {
    let named: Vec<&GatewayRoute<'n>> =
        routes.iter().filter(|route| route.object.name == target.name).collect();
    let same = named.iter().find(|route| {
        let is_open = route.object.own_namespace().is_none() || object.own_namespace().is_none();
        is_open || route.object.namespace == object.namespace
    });
    match (same, named.first()) {
        (Some(route), _) => {
            if let Some(section) = target.section
                && !route.rules.iter().any(|rule| rule.name == Some(section))
            {
                let names: Vec<&str> = route.rules.iter().filter_map(|rule| rule.name).collect();
                let allowed = if names.is_empty() {
                    "none, as no rule has a name".to_owned()
                } else {
                    names.join(", ")
                };
                findings.problem(index, "spec.targetRefs", format!("sectionName: {section:?}: {} in {} has no rule of this name, so the filter is on nowhere there; allowed: {allowed}", route.object, route.object.file));
            }
            placement.routes.push(PlacedRoute { route, section: target.section });
        }
        (None, Some(other)) => {
            placement.is_partial = true;
            findings.problem(index, "spec.targetRefs", format!("HTTPRoute {} is looked for in namespace {}, and the one in {} is in {}. Put both into one namespace", target.name, object.namespace, other.object.file, other.object.namespace));
        }
        (None, None) => {
            placement.is_partial = true;
            findings.note(
                index,
                "spec.targetRefs",
                format!(
                    "the routes were not checked: no file has HTTPRoute {}/{}",
                    object.namespace, target.name
                ),
            );
        }
    }
}

/// Reports other policies that take the filter away: those for a route of the same Gateway, and those for the same target.
pub fn check_rivals(
    (index, object): (usize, &Object<'_>),
    objects: &[Object<'_>],
    routes: &[GatewayRoute<'_>],
    findings: &mut GatewayFindings,
) {
    let own = extension::targets(object);
    for (other_index, other) in objects.iter().enumerate() {
        let is_policy = (other.group, other.kind) == (extension::GROUP, "EnvoyExtensionPolicy");
        if other_index == index || !is_policy || other.namespace != object.namespace {
            continue;
        }
        let targets = extension::targets(other);
        if let Some(shared) = targets.iter().find(|target| own.contains(target)) {
            if index < other_index || extension::filters(other).is_empty() {
                findings.problem(index, "spec.targetRefs", format!("{} {} is a target of {other} in {}, too, and Envoy Gateway uses only the older one. Put both into one resource", shared.kind, shared.name, other.file));
            }
            continue;
        }
        let merges = get_text(other.node, &["spec", "mergeType"]).is_some();
        let gateways = || own.iter().filter(|target| target.kind == "Gateway");
        let taken = targets.iter().filter(|target| target.kind == "HTTPRoute" && !merges).find(|target| {
            let mut named = routes.iter().filter(|route| route.object.name == target.name);
            named.any(|route| gateways().any(|gateway| route.is_attached(object.namespace, gateway.name)))
        });
        if let Some(taken) = taken.filter(|_| extension::filters(other).is_empty()) {
            findings.problem(other_index, "spec", format!("replaces {object} in {} on HTTPRoute {}, so the filter is off there. Add mergeType: StrategicMerge", object.file, taken.name));
        }
    }
}
