//! Plain values that all other layers share. They hold no policy and no state.

pub mod authority;
pub mod baggage;
pub mod code;
pub mod content_type;
pub mod date;
pub mod deadline;
pub mod duration;
pub mod filter_state;
pub mod gzip;
pub mod hash;
pub mod host;
pub mod lease;
pub mod lifecycle;
pub mod parse;
pub mod peers;
pub mod request;
pub mod response;
pub mod string_match;
pub mod time;
