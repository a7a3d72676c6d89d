//! `headers` of a version, as an Istio `VirtualService` has them: edits of its requests and responses.

use crate::policy::reader::Value;

/// Edits of one message's headers, all names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderEdits {
    /// Headers that get this value, whatever they had.
    pub set: Vec<(String, String)>,
    /// Headers that get this value beside what they have.
    pub add: Vec<(String, String)>,
    /// Headers that go.
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// Reads `request` and `response`.
    pub fn read(value: &Value<'_>) -> Option<(Self, Self)> {
        let fields = value.object(&["request", "response"])?;
        let one = |key| fields.read(key, HeaderEdits::default(), Self::read_one);
        let (request, response) = (one("request"), one("response"));
        Some((request?, response?))
    }

    fn read_one(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["set", "add", "remove"])?;
        let map = |value: &Value<'_>| value.headers(|_, _| true);
        let set = fields.read("set", Vec::new(), map);
        let add = fields.read("add", Vec::new(), map);
        let remove = fields.each("remove", |value| value.header_name(true));
        let edits = HeaderEdits { set: set?, add: add?, remove: remove? };
        value.headers_at_most(edits.set.len() + edits.add.len() + edits.remove.len());
        Some(edits)
    }

    /// Whether it touches the header.
    pub fn edits(&self, header: &str) -> bool {
        let mut names = self.set.iter().chain(&self.add).map(|(name, _)| name).chain(&self.remove);
        names.any(|name| name == header)
    }
}
