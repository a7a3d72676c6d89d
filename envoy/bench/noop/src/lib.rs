//! A filter that does nothing with a request, by the SDK's own traits and with all that it exports.

use proxy_wasm::traits::{Context, HttpContext};

struct Noop;

impl Context for Noop {}

impl HttpContext for Noop {}

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(Noop));
}}
