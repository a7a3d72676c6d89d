//! The shapes that many keys have in common.

use super::spec::Format::{self, NotEmpty};
use super::spec::Shape::{Choice, List, Map, Whole};
use super::spec::{KeySpec, Shape};

/// Returns a key that may be left out.
pub const fn key(name: &'static str, shape: Shape) -> KeySpec {
    KeySpec::optional(name, shape)
}

/// Returns a key that must be there.
pub const fn required(name: &'static str, shape: Shape) -> KeySpec {
    KeySpec::required(name, shape)
}

/// A second, in milliseconds.
pub const SECOND: u64 = 1_000;
/// An hour, in milliseconds.
pub const HOUR: u64 = 3_600 * SECOND;
/// A day, in milliseconds.
pub const DAY: u64 = 24 * HOUR;

/// A DNS label.
pub const DNS_LABEL: Shape = Shape::Text(Format::DnsLabel);
/// A name that goes into metrics and headers.
pub const LABEL: Shape = Shape::Text(Format::Label);
/// A string that is not empty.
pub const TEXT: Shape = Shape::Text(NotEmpty);
/// The name of a header that a policy reads.
pub const HEADER_NAME: Shape = Shape::Text(Format::HeaderName);
/// The name of a header that a policy writes.
pub const WRITTEN_HEADER: Shape = Shape::Text(Format::WrittenHeader);
/// The value of a header.
pub const HEADER_VALUE: Shape = Shape::Text(Format::HeaderValue);
/// A path without a query.
pub const PATH: Shape = Shape::Text(Format::Path);
/// A host name or an address.
pub const HOST: Shape = Shape::Text(Format::Host);
/// Addresses and networks.
pub const NETWORKS: Shape = List(&Shape::Text(Format::Network));
/// A point in time.
pub const DATE: Shape = Shape::Text(Format::Date);
/// A share.
pub const PERCENT: Shape = Whole(1, 100);
/// A share that can be exceeded, which 100 % cannot.
pub const LIMIT_PERCENT: Shape = Whole(1, 99);
/// Header names with the values to write.
pub const HEADERS: Shape = Map(&HEADER_VALUE);
/// Hosts, as in a match.
pub const HOSTS: Shape = List(&Shape::Text(Format::HostPattern));
/// The conditions of which an object has one.
pub const ONE_CONDITION: [&str; 3] = ["exact", "prefix", "regex"];
/// Whether decisions take effect.
pub const MODE: Shape = Choice(&["enforce", "shadow", "off"]);
/// What a proxy does with a wrong document.
pub const ON_WRONG_POLICY: Shape = Choice(&["refuse", "lastGood"]);
/// A port.
pub const PORT: Shape = Whole(1, 65_535);

/// The most headers that a policy may add to one message. From about a thousand headers on, the proxy would refuse the map
/// and add none.
pub const MAX_HEADERS: u16 = 50;
