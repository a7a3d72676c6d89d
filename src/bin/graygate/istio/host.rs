//! Names of hosts in Istio's resources.
//!
//! Istio completes a name without a dot by the resource's namespace and the mesh's domain. It takes a name with a dot as it
//! stands, so that `reviews.shop` is not the Service `reviews` in `shop`.

use core::fmt;

use graygate::policy::spelling::nearest;

/// A host as a resource names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostName<'n> {
    /// The name as it is written.
    pub text: &'n str,
    /// The namespace that completes it. `None` if it is only known when the resource is applied.
    pub namespace: Option<&'n str>,
}

/// The names of a Kubernetes Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceName<'n> {
    /// `metadata.name`.
    pub name: &'n str,
    /// `metadata.namespace`.
    pub namespace: &'n str,
}

impl<'n> ServiceName<'n> {
    /// Returns the Service with this full name, such as `reviews.shop.svc.cluster.local`.
    pub fn of(host: &'n str) -> Option<Self> {
        let mut parts = host.splitn(4, '.');
        let (name, namespace, svc, domain) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        let is_service = svc == "svc" && domain.is_some() && !name.is_empty() && !namespace.is_empty();
        is_service.then_some(ServiceName { name, namespace })
    }
}

impl fmt::Display for ServiceName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

impl<'n> HostName<'n> {
    /// Returns whether Istio takes the name for this host, which is a full name.
    pub fn means(&self, host: &str) -> bool {
        if let Some(domain) = self.text.strip_prefix('*') {
            return host.len() > domain.len() && host.ends_with(domain);
        }
        if self.text == host {
            return true;
        }
        let service = ServiceName::of(host).filter(|_| !self.text.contains('.'));
        service.is_some_and(|service| {
            service.name == self.text && self.namespace.is_none_or(|namespace| namespace == service.namespace)
        })
    }

    /// Returns whether the name is this Service's for people, but not for Istio: `reviews.shop` or `reviews.shop.svc`.
    pub fn is_cut(&self, host: &str) -> bool {
        let cut = ServiceName::of(host).map(|service| service.to_string());
        cut.is_some_and(|cut| self.text == cut || self.text.strip_suffix(".svc") == Some(&cut))
    }

    /// Returns the rank of a name that means a host: of several names, Istio goes by the most specific one.
    pub fn rank(&self) -> usize {
        if self.text.starts_with('*') { self.text.len() } else { usize::MAX }
    }

    /// Returns the name as it is compared for misspellings: `reviews.shop` for a Service, and else the name itself.
    pub fn plain(&self) -> String {
        match (ServiceName::of(self.text), self.namespace) {
            (Some(service), _) => service.to_string(),
            (None, Some(namespace)) if !self.text.contains(['.', '*']) => {
                format!("{}.{namespace}", self.text)
            }
            _ => self.text.to_owned(),
        }
    }

    /// Returns the names by which clients may call the host.
    pub fn names(&self) -> Vec<String> {
        let text = self.plain();
        match text.split_once('.') {
            Some((name, namespace)) if !namespace.contains('.') && !name.contains('*') => vec![
                name.to_owned(),
                text.clone(),
                format!("{text}.svc"),
                if self.text.contains(".svc.") {
                    self.text.to_owned()
                } else {
                    format!("{text}.svc.cluster.local")
                },
            ],
            _ => vec![text],
        }
    }
}

/// Returns the full name of a host as a policy names it: `reviews.shop` for a Service.
pub fn plain(host: &str) -> String {
    HostName { text: host, namespace: None }.plain()
}

/// Returns which of the known hosts this one is most likely a misspelling of. Hosts that are known are not misspelt.
pub fn misspelt<'k>(host: &str, known: &'k [String]) -> Option<&'k str> {
    let host = plain(host);
    if known.contains(&host) {
        return None;
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    // Names that differ in numbers alone are those of versions.
    let letters = |name: &str| name.replace(|character: char| character.is_ascii_digit(), "");
    nearest(&host, &known).filter(|near| letters(near) != letters(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "reviews.shop.svc.cluster.local";

    fn name(text: &'static str, namespace: Option<&'static str>) -> HostName<'static> {
        HostName { text, namespace }
    }

    #[test]
    fn istio_completes_only_a_name_without_a_dot() {
        for (text, namespace, means) in [
            ("reviews", Some("shop"), true),
            ("reviews", Some("other"), false),
            ("reviews", None, true),
            ("ratings", None, false),
            (HOST, Some("other"), true),
            ("reviews.shop", Some("shop"), false),
            ("*", Some("other"), true),
            ("*.shop.svc.cluster.local", None, true),
            ("*.other.svc.cluster.local", None, false),
        ] {
            assert_eq!(name(text, namespace).means(HOST), means, "{text} {namespace:?}");
        }
        assert!(!name("*.b.c", None).means("b.c"));
    }

    #[test]
    fn a_name_with_namespace_alone_is_cut() {
        for (text, cut) in
            [("reviews.shop", true), ("reviews.shop.svc", true), ("reviews", false), (HOST, false)]
        {
            assert_eq!(name(text, Some("shop")).is_cut(HOST), cut, "{text}");
        }
    }

    #[test]
    fn a_service_has_four_names_and_any_other_host_one() {
        let names = ["reviews", "reviews.shop", "reviews.shop.svc", HOST];
        assert_eq!(name(HOST, None).names(), names);
        assert_eq!(name("reviews", Some("shop")).names(), names);
        assert_eq!(name("reviews.example.com", Some("shop")).names(), ["reviews.example.com"]);
    }

    #[test]
    fn a_misspelt_host_is_near_a_known_one() {
        let known = ["reviews.shop".to_owned(), "a.example.com".to_owned()];
        assert_eq!(misspelt("revews.shop.svc.cluster.local", &known), Some("reviews.shop"));
        assert_eq!(misspelt(HOST, &known), None);
        assert_eq!(misspelt("reviews2.shop.svc.cluster.local", &known), None);
        assert_eq!(misspelt("payments.shop.svc.cluster.local", &known), None);
    }
}
