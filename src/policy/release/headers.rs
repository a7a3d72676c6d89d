//! `headers` of a version: header edits of its requests and responses, as in an Istio `VirtualService`.

use crate::policy::keys::MAX_HEADERS;
use crate::policy::reader::Value;

/// Header edits of one message. All names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderEdits {
    /// Headers to set. The value replaces all present ones.
    pub set: Vec<(String, String)>,
    /// Headers to add. The value is added to the present ones.
    pub add: Vec<(String, String)>,
    /// Headers to remove.
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// Reads `headers` and returns the edits of `request` and of `response`.
    pub fn read(value: &Value<'_>) -> Option<(Self, Self)> {
        let fields = value.object()?;
        let request = fields.read("request", HeaderEdits::default(), Self::read_one);
        let response = fields.read("response", HeaderEdits::default(), Self::read_one);
        Some((request?, response?))
    }

    fn read_one(value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let read_headers = |value: &Value<'_>| value.headers(|_, _| true);
        let set = fields.read("set", Vec::new(), read_headers);
        let add = fields.read("add", Vec::new(), read_headers);
        let remove = fields.read_list("remove", Value::header_name);
        let edits = HeaderEdits { set: set?, add: add?, remove: remove? };
        let count = edits.set.len() + edits.add.len() + edits.remove.len();
        if count > usize::from(MAX_HEADERS) {
            value.problem::<()>(format!("{count} headers; allowed: at most {MAX_HEADERS}"));
        }
        Some(edits)
    }

    /// Returns whether an edit changes this header.
    pub fn edits(&self, header: &str) -> bool {
        let mut names = self.set.iter().chain(&self.add).map(|(name, _)| name).chain(&self.remove);
        names.any(|name| name == header)
    }
}
