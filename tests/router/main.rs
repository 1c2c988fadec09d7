//! The router, as its callers and its operators see it.

#[path = "../../examples/router/main.rs"]
#[allow(dead_code)]
mod router;
