//! The arguments of `explain`. Their doc comments are the text of `--help`.

use core::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use graygate::value::date::Date;
use http::{HeaderName, HeaderValue, Method, Uri};

use crate::policy_argument::PolicyArgument;

/// The end of the help text.
const EXAMPLES: &str = "Examples:
  graygate explain policy.yaml -H 'x-user-id: alice' --path /api
  graygate explain policy.yaml 'https://reviews.example.com/api?uid=7' -X POST
  graygate explain policy.yaml --not-ready reviews-v2 --at 2026-12-01T11:00:00+01:00";

/// The arguments of `explain`.
#[derive(Args)]
#[command(after_help = EXAMPLES, override_usage = "graygate explain [OPTIONS] <FILE> [URL]")]
pub struct ExplainArguments {
    #[command(flatten)]
    pub policy: PolicyArgument,
    /// The request's URL. It stands for --scheme, --authority and --path
    #[arg(value_name = "URL", value_parser = parse_url, conflicts_with_all = ["scheme", "authority", "path"])]
    pub url: Option<RequestTarget>,

    /// The request's method
    #[arg(short = 'X', long, default_value = "GET", value_parser = parse_method, help_heading = "Request")]
    pub method: String,
    /// A header of the request, as in curl; may be repeated. "NAME:" is a header without a value
    #[arg(short = 'H', value_name = "NAME: VALUE", value_parser = parse_header, help_heading = "Request")]
    headers: Vec<(String, String)>,
    // An earlier version took headers this way.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_pair, hide = true)]
    pairs: Vec<(String, String)>,
    /// The request's path, with its query
    #[arg(long, default_value = "/", value_parser = parse_path, help_heading = "Request")]
    pub path: String,
    /// The request's host, with a port if it has one
    #[arg(long, value_name = "HOST", default_value = "localhost", help_heading = "Request")]
    pub authority: String,
    /// The request's scheme [default: that of the header x-forwarded-proto, or http]
    #[arg(long, help_heading = "Request")]
    pub scheme: Option<String>,
    /// The address that the request comes from. The port is 0 if the proxy takes the address from a header
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:50000",
        value_parser = parse_source,
        help_heading = "Request"
    )]
    pub source: SocketAddr,
    /// The cluster that the request's route leads to before the filter edits headers, "" for none [default: for each
    /// gate without a match, the cluster of its upstream]
    #[arg(long, value_name = "NAME", help_heading = "Request")]
    pub cluster: Option<String>,
    /// Explain each of these requests instead, one JSON object per line: {"method", "path", "authority", "scheme",
    /// "source", "cluster", "headers": {NAME: VALUE or a list of values}}; "-" is standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["url", "path", "method", "authority", "scheme", "source", "cluster", "headers", "pairs"],
        help_heading = "Request"
    )]
    pub requests: Option<PathBuf>,

    /// An upstream that is not ready; may be repeated. The others are as the policy assumes them
    #[arg(long, value_name = "UPSTREAM", help_heading = "State")]
    pub not_ready: Vec<String>,
    /// A version that is rolled back; may be repeated
    #[arg(long, value_name = "RELEASE/VERSION", help_heading = "State")]
    pub rolled_back: Vec<String>,
    /// The time of the request, such as 2026-12-01T10:00:00Z or 2026-12-01T11:00:00+01:00 [default: now]
    #[arg(long, value_name = "TIME", value_parser = crate::clock::date, help_heading = "State")]
    pub at: Option<Date>,

    /// Print one JSON object per request
    #[arg(long)]
    pub json: bool,
}

impl ExplainArguments {
    /// Returns the headers of the request, as they are given.
    pub fn headers(&self) -> impl Iterator<Item = &(String, String)> {
        self.headers.iter().chain(&self.pairs)
    }
}

/// What a URL says about a request.
#[derive(Clone, Debug)]
pub struct RequestTarget {
    /// The scheme, `http` or `https`.
    pub scheme: String,
    /// The host, with the port if it is not the scheme's own.
    pub authority: String,
    /// The path with the query.
    pub path: String,
}

/// Parses a URL as curl does: without a user, and without the port if it is the scheme's own.
fn parse_url(text: &str) -> Result<RequestTarget, String> {
    let allowed = "write a URL such as https://reviews.example.com/api?uid=7";
    let uri: Uri = text.parse().map_err(|error| format!("{error}; {allowed}"))?;
    let own_port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        Some(other) => return Err(format!("the scheme {other} is unknown; {allowed}")),
        None => return Err(format!("the scheme is missing; {allowed}")),
    };
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(format!("the host is missing; {allowed}"))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port_text = authority.rsplit('@').next().and_then(|rest| rest.strip_prefix(host)?.strip_prefix(':'));
    if port_text.is_some_and(|port| !port.is_empty()) && uri.port_u16().is_none() {
        return Err(format!("the port is not a number from 0 to 65535; {allowed}"));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let port = uri.port_u16().filter(|port| *port != own_port);
    Ok(RequestTarget {
        scheme: uri.scheme_str().unwrap_or_default().to_owned(),
        authority: port.map_or(host.to_owned(), |port| format!("{host}:{port}")),
        path: format!("/{}", path.strip_prefix('/').unwrap_or(path)),
    })
}

/// Parses a header as curl does. A name with a colon in front is one of HTTP/2, such as `:path`.
fn parse_header(text: &str) -> Result<(String, String), String> {
    let allowed = "write NAME: VALUE, such as 'x-user-id: alice'";
    let colon = text.char_indices().skip(1).find(|(_, character)| *character == ':');
    let Some((name, value)) = colon.and_then(|(index, _)| text.split_at_checked(index)) else {
        return Err(match text.strip_suffix(';') {
            Some(name) => format!("the colon is missing; write '{name}:' for a header without a value"),
            None => format!("the colon is missing; {allowed}"),
        });
    };
    let value = value.strip_prefix(':').unwrap_or(value).trim();
    if HeaderName::from_bytes(name.strip_prefix(':').unwrap_or(name).as_bytes()).is_err() {
        return Err(format!("{name:?} is not the name of a header; {allowed}"));
    }
    if HeaderValue::from_str(value).is_err() {
        return Err("the value has a control character; remove it".to_owned());
    }
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// Parses a header as earlier versions took it, or as [`parse_header`] does.
fn parse_pair(text: &str) -> Result<(String, String), String> {
    let name_end = text.char_indices().skip(1).find(|(_, character)| matches!(character, '=' | ':'));
    match name_end {
        Some((_, '=')) => {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            Ok((name.to_ascii_lowercase(), value.to_owned()))
        }
        _ => parse_header(text),
    }
}

/// Parses a method. The proxy refuses a request whose method is not a token.
fn parse_method(text: &str) -> Result<String, String> {
    let method = Method::from_bytes(text.as_bytes());
    method.map(|_| text.to_owned()).map_err(|_| "write a method, such as GET or POST".to_owned())
}

/// Parses a path. The proxy refuses a request whose path does not begin with a slash.
fn parse_path(text: &str) -> Result<String, String> {
    match text {
        "*" => Ok(text.to_owned()),
        text if text.starts_with('/') && !text.contains(char::is_whitespace) => Ok(text.to_owned()),
        _ => Err("write a path that begins with /, such as /api?uid=7".to_owned()),
    }
}

fn parse_source(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write an IP address and a port, such as 10.0.0.7:50000 or [::1]:50000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_as_by_curl() {
        for (text, scheme, authority, path) in [
            ("https://reviews.example.com/api?uid=7", "https", "reviews.example.com", "/api?uid=7"),
            ("http://a", "http", "a", "/"),
            ("HTTP://a:80/x#part", "http", "a", "/x"),
            ("https://me:secret@a:8443?q", "https", "a:8443", "/?q"),
            ("http://[::1]:9080/", "http", "[::1]:9080", "/"),
        ] {
            let target = parse_url(text).unwrap();
            assert_eq!([target.scheme.as_str(), &target.authority, &target.path], [scheme, authority, path]);
        }
        for text in ["", "/api", "reviews.example.com", "ftp://a/", "https://", "http://a b/", "http://a:x/"]
        {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_is_a_name_a_colon_and_a_value() {
        for (text, name, value) in [
            ("X-User-Id: alice", "x-user-id", "alice"),
            ("x-a:b: c ", "x-a", "b: c"),
            ("x-a:", "x-a", ""),
            ("cookie: a=b; c=d", "cookie", "a=b; c=d"),
            (":path: /api", ":path", "/api"),
        ] {
            assert_eq!(parse_header(text), Ok((name.to_owned(), value.to_owned())));
            assert_eq!(parse_pair(text), Ok((name.to_owned(), value.to_owned())));
        }
        assert_eq!(parse_pair("x-a=b:c=d"), Ok(("x-a".to_owned(), "b:c=d".to_owned())));
        for (text, words) in [
            ("x-a;", "write 'x-a:' for a header without a value"),
            ("x-user-id=alice", "the colon is missing; write NAME: VALUE"),
            ("", "the colon is missing"),
            ("x a: 1", "\"x a\" is not the name of a header"),
            ("x-a: b\nc", "control character"),
        ] {
            assert!(parse_header(text).unwrap_err().contains(words), "{text}");
        }
    }
}
