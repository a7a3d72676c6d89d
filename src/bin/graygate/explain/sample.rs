//! The request that `explain` explains.

use core::net::SocketAddr;
use std::borrow::Cow;
use std::collections::BTreeMap;

use graygate::value::request::Request;
use serde::Deserialize;

/// A request from the command line, or from a line of the file of `--requests`. Missing fields have the defaults of the
/// command line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleRequest {
    #[serde(default = "default_method")]
    pub method: String,
    #[serde(default = "default_path")]
    pub path: String,
    #[serde(default = "default_authority")]
    pub authority: String,
    #[serde(default = "default_source")]
    pub source: SocketAddr,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn default_method() -> String {
    "GET".to_owned()
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_source() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 50_000))
}

fn default_authority() -> String {
    "localhost".to_owned()
}

impl Request for SampleRequest {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let value = match name {
            ":method" => &self.method,
            ":path" => &self.path,
            ":authority" | "host" => &self.authority,
            ":scheme" => return Some(Cow::Borrowed(b"http")),
            name => self.headers.get(name)?,
        };
        Some(Cow::Borrowed(value.as_bytes()))
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Owned(self.source.to_string().into_bytes()))
    }
}
