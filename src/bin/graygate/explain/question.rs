//! A request in words, as `explain` is asked.

use core::net::SocketAddr;
use std::borrow::Cow;
use std::collections::BTreeMap;

use graygate::value::request::Request;
use serde::Deserialize;

/// A request in words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    #[serde(default = "get")]
    pub method: String,
    #[serde(default = "root")]
    pub path: String,
    #[serde(default = "localhost")]
    pub authority: String,
    #[serde(default = "loopback")]
    pub source: SocketAddr,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 50_000))
}

fn localhost() -> String {
    "localhost".to_owned()
}

impl Request for Question {
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
